"""Perplexity of documents under n-gram models of reference text, one for each language, and CCNet's buckets of it.

counts.py numbers the n-grams of a corpus, estimation.py makes probabilities of their counts, model.py looks them up and
scores text, file.py keeps a model, arpa.py reads those of others, stages.py runs it and buckets.py decides by it.
"""
