"""Toxicity and adult content: word lists by language and categories of URLs as signals, and rules over them."""
