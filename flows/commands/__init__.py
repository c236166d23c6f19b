"""The commands of `headrace`, by kind. Each imports what it needs when it is called: `headrace --help` is quick."""
