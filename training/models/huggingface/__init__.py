"""Models to and from the folders of Hugging Face's transformers: config.json, safetensors, tokenizer.

One file a family (`gpt2.py`, `bert.py`, ...) says what the family can hold and which tensor is which; `exporting.py`
and `importing.py` do the rest for all of them. Neither needs transformers.
"""

from training.models.huggingface.exporting import export
from training.models.huggingface.families import FAMILIES, auto_class, family_for
from training.models.huggingface.importing import import_model

__all__ = ["FAMILIES", "auto_class", "export", "family_for", "import_model"]
