"""Classifiers of documents: training a fastText one from positive and negative documents, applying a neural one."""
