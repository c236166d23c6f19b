"""Decontamination: documents that repeat the items of evaluation sets are found, and dropped or cut."""
