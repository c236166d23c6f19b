"""Tokens: the held-out split, the tokenizer and its training sample, encoding, and token shards."""
