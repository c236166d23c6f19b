"""Deduplication: signatures, candidates from bands, verified removal. MinHash only proposes; real shingles decide."""
