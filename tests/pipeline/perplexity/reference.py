"""Interpolated modified Kneser-Ney as its papers state it, over dictionaries of tuples of words."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

BEGIN, END, UNKNOWN = "<s>", "</s>", "<unk>"


class PlainKneserNey:
    def __init__(self, documents, order, minimum_word_count=1, minimum_counts=(1,)):
        seen = Counter(word for document in documents for word in document)
        self.vocabulary = {word for word, count in seen.items() if count >= minimum_word_count}
        sentences = [[BEGIN, *map(self.known, document), END] for document in documents if document]
        self.order = min(order, max(map(len, sentences)))
        minimum_counts = [1, *minimum_counts, *[minimum_counts[-1]] * order]
        self.minimum = {n: minimum_counts[n - 1] for n in range(1, order + 1)}
        self.count = Counter(
            tuple(sentence[at : at + n])
            for sentence in sentences
            for n in range(1, self.order + 1)
            for at in range(len(sentence) - n + 1)
        )
        before = defaultdict(set)
        for gram in self.count:
            before[gram[1:]].add(gram[0])
        self.adjusted = {
            gram: count if len(gram) == self.order or gram[0] == BEGIN else len(before[gram])
            for gram, count in self.count.items()
        }
        self.adjusted[BEGIN,] = 0
        self.after = defaultdict(list)
        for gram in self.adjusted:
            self.after[gram[:-1]].append(gram)
        self.discount = {n: self._discounts(n) for n in range(1, self.order + 1)}

    def known(self, word):
        return word if word in self.vocabulary else UNKNOWN

    def _discounts(self, n):
        t = Counter(count for gram, count in self.adjusted.items() if len(gram) == n)
        if all(t[k] for k in (1, 2, 3, 4)):
            y = t[1] / (t[1] + 2 * t[2])
            found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
            if all(0 < value <= k for k, value in enumerate(found, 1)):
                return [0, *found]
        return [0, 0.5, 1, 1.5]

    def probability(self, word, context):
        """P(word | context), the context a tuple of known words."""
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        lower = self.probability(word, context[1:]) if context else 1 / (len(self.vocabulary) + 2)
        total = sum(self.adjusted[gram] for gram in self.after[context])
        if total == 0:
            return lower
        n = len(context) + 1
        own, freed = 0.0, 0.0
        for gram in self.after[context]:
            count = self.adjusted[gram]
            discount = self.discount[n][min(count, 3)]
            if n > 1 and self.count[gram] < self.minimum[n]:
                freed += count
                continue
            freed += discount
            if gram[-1] == word:
                own = (count - discount) / total
        return own + freed / total * lower

    def log_probabilities(self, document):
        sentence = [BEGIN, *map(self.known, document), END]
        return [math.log(self.probability(sentence[at], tuple(sentence[:at]))) for at in range(1, len(sentence))]

    def perplexity(self, document):
        found = self.log_probabilities(document)
        return math.exp(-sum(found) / len(found))
