"""Chat templates: the text that a model of dialogue reads, from a list of messages.

A template is Jinja text as transformers has it, rendered in a sandbox. It comes from the checkpoint
(`load_template`); a model without one gets the plain default (`DEFAULT_TEMPLATE`).
"""

from training.chat.default import DEFAULT_TEMPLATE
from training.chat.ends import AnswerEnds, answer_ends
from training.chat.history import fit_history
from training.chat.reading import load_template, read_source, template_of
from training.chat.template import ChatTemplate, Message, check_messages, render

__all__ = [
    "DEFAULT_TEMPLATE",
    "AnswerEnds",
    "ChatTemplate",
    "Message",
    "answer_ends",
    "check_messages",
    "fit_history",
    "load_template",
    "read_source",
    "render",
    "template_of",
]
