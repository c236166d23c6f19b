"""The study `scaling`: a ladder of sizes by tokens, the laws of its losses, and a forecast that is put to the test."""
