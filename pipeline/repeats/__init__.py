"""Repeated text inside documents: lines, paragraphs and substrings that stand elsewhere in the corpus, too."""
