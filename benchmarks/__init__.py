"""Measurements against named peers, on the same input in the same run; not tests."""
