"""Personal data and secrets: where they stand in a text, and how they are masked or their documents dropped."""
