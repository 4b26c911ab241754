"""What the ids of a model's tokens mean, written beside its weights for readers without ablab, and for reading back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ablab.config import Node
from ablab.tasks.base import Task
from ablab.tasks.tokenizers import ByteTokenizer, CharTokenizer, SubwordTokenizer, tokenizer_from_state

_TENSOR = "tensor"  # by this key JSON holds one


def vocabulary_of(task: Task, remembered: Mapping[str, Any]) -> Node:
    """What the task remembers, and the text of each token by itself; null where it is none."""
    return {"task": _plain(remembered), "tokens": [_text(task, token) for token in range(task.vocab_size)]}


def remembered_of(vocabulary: Node) -> Node:
    """What a task remembered, out of `vocabulary_of`."""
    remembered: Node = _restored(vocabulary["task"])
    return remembered


def tokenizer_files(remembered: Mapping[str, Any]) -> dict[str, str]:
    """The files by which `AutoTokenizer` of transformers has the run's tokens; none where they are none of text."""
    if "tokenizer" not in remembered:
        return {}
    tokenizer = tokenizer_from_state(dict(remembered))
    if isinstance(tokenizer, SubwordTokenizer):
        # A run puts no tokens around a text, as a library would by this part of the file.
        content = json.dumps(json.loads(tokenizer.json) | {"post_processor": None})
    else:
        content = json.dumps(_bytes() if isinstance(tokenizer, ByteTokenizer) else _characters(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    return {"tokenizer.json": content, "tokenizer_config.json": json.dumps(settings)}


def _bytes() -> Node:
    """Byte pair encoding that joins no pairs. It writes bytes as the characters that GPT-2 has for them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # by themselves
    others = {byte: 256 + place for place, byte in enumerate(sorted(set(range(256)) - set(shown)))}
    vocabulary = {chr(others.get(byte, byte)): byte for byte in range(256)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return _library({"type": "BPE", "vocab": vocabulary, "merges": []}, level, level)


def _characters(tokenizer: CharTokenizer) -> Node:
    """Words of a character each. One that is not known is refused."""
    vocabulary = {character: token for token, character in enumerate(tokenizer.vocabulary)}
    apart = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    return _library({"type": "WordLevel", "vocab": vocabulary, "unk_token": ""}, apart, {"type": "Fuse"})


def _library(model: Node, cut: Node, join: Node) -> Node:
    """A tokenizer as the library `tokenizers` writes it."""
    rest: Node = {"truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "post_processor": None}
    return {"version": "1.0", **rest, "pre_tokenizer": cut, "decoder": join, "model": model}


def _text(task: Task, token: int) -> str | None:
    try:
        return task.decode(torch.tensor([token]))
    except Exception:  # a task may have no text for a token, or for any
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return {_TENSOR: value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and _TENSOR in value:
        dtype = getattr(torch, value["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise ValueError(f"{value['dtype']!r:.40} is no type of a tensor")
        return torch.tensor(value[_TENSOR], dtype=dtype)
    if isinstance(value, dict):
        return {key: _restored(each) for key, each in value.items()}
    return [_restored(each) for each in value] if isinstance(value, list) else value
