"""Text to ids and back. A tokenizer travels in a checkpoint, whole, as its `state()`.

`plain` has bytes and characters, `subwords` what a trained vocabulary cuts text into, `choice` makes the tokenizer that
a setting names.
"""

from __future__ import annotations

from ablab.tasks.tokenizers.plain import ByteTokenizer, CharTokenizer, Ids
from ablab.tasks.tokenizers.subwords import SubwordTokenizer

__all__ = ["ByteTokenizer", "CharTokenizer", "Ids", "SubwordTokenizer", "Tokenizer", "tokenizer_from_state"]

Tokenizer = ByteTokenizer | CharTokenizer | SubwordTokenizer


def tokenizer_from_state(state: dict[str, str]) -> Tokenizer:
    """The tokenizer that `state()` described. Raises UserError if it needs a library that is not installed."""
    if state["tokenizer"] == CharTokenizer.name:
        return CharTokenizer(state["vocabulary"])
    return SubwordTokenizer(state["json"]) if state["tokenizer"] == SubwordTokenizer.name else ByteTokenizer()
