"""The tokenizer that the setting `task.tokenizer` names."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError, one_line
from ablab.tasks.cache import Arrays, cached
from ablab.tasks.hugging_face import library
from ablab.tasks.plain_files import read_plain
from ablab.tasks.tokenizers import Tokenizer, tokenizer_from_state
from ablab.tasks.tokenizers.plain import ByteTokenizer, CharTokenizer
from ablab.tasks.tokenizers.subwords import SubwordTokenizer

Texts = Callable[[], Iterable[str]]  # gives them from the start each time

Made = tuple[Tokenizer, dict[str, NDArray[Any]]]

_SMALLEST_BPE = 257  # the bytes, and the end of a text
_STATE = "tokenizer"


@dataclass(frozen=True)
class TokenizerChoice:
    """What tokenizer to use; it is made when the texts are there.

    Attributes:
        name: "bytes" (of UTF-8), "chars" (the vocabulary is every character of the corpus), "bpe" (byte pair encoding,
            trained on the training split), or else a pretrained tokenizer: a `tokenizer.json`, the folder of one, or
            its name on the Hugging Face hub.
        bpe_vocab_size: tokens of "bpe", at most.
        made: the tokenizer itself where it is there already; None: it is to be made.

    Raises:
        ValueError: there is no name, or `bpe_vocab_size` is too small.
    """

    name: str
    bpe_vocab_size: int
    made: Tokenizer | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> TokenizerChoice:
        """The choice of a tokenizer that is there already, as that of a trained run."""
        return cls(tokenizer.name, _SMALLEST_BPE, tokenizer)

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError(
                "task.tokenizer must be bytes, chars, bpe, or a pretrained one's file or name, got nothing"
            )
        if self.bpe_vocab_size < _SMALLEST_BPE:
            raise ValueError(
                f"task.bpe_vocab_size={self.bpe_vocab_size}: must be at least {_SMALLEST_BPE}, "
                "for the 256 bytes and the end of a text"
            )

    @property
    def any_bytes(self) -> bool:
        """Whether it takes what is not UTF-8, too."""
        return self.name == ByteTokenizer.name

    @property
    def quick(self) -> bool:
        """Whether it takes no longer than reading its tokens from a disk would."""
        return self.name in (ByteTokenizer.name, CharTokenizer.name)

    def identity(self) -> dict[str, str | int]:
        """What the tokens depend on beside the texts, as JSON takes it. Reads a pretrained tokenizer."""
        if self.made is not None and self.name != ByteTokenizer.name:
            return {"tokenizer": hashlib.sha256(json.dumps(self.made.state()).encode()).hexdigest()}
        if self.quick:
            return {"tokenizer": self.name}
        if self.name == "bpe":
            version = library("tokenizers").__version__
            return {"tokenizer": "bpe", "vocab_size": self.bpe_vocab_size, "trained_by": version}
        return {"tokenizer": hashlib.sha256(self._pretrained.json.encode()).hexdigest()}

    def make(self, *, training: Texts, corpus: Texts) -> Tokenizer:
        """The tokenizer.

        Args:
            training: the texts of the training split.
            corpus: those of all splits.

        Raises:
            UserError: there is no such pretrained tokenizer, or the library for it is not installed.
        """
        if self.made is not None:
            return self.made
        if self.name == ByteTokenizer.name:
            return ByteTokenizer()
        if self.name == CharTokenizer.name:
            return CharTokenizer.of_many(corpus())
        return SubwordTokenizer.bpe(training(), self.bpe_vocab_size) if self.name == "bpe" else self._pretrained

    @cached_property
    def _pretrained(self) -> SubwordTokenizer:
        path = Path(os.path.expanduser(self.name))
        path = path / "tokenizer.json" if path.is_dir() else path
        if path.is_file():
            return _of_file(path)
        if path.suffix == ".json" or self.name.startswith((".", "/", "~")):
            raise UserError(f"{path}: no such file; mend task.tokenizer")
        return _of_hub(self.name)


def tokenised(choice: TokenizerChoice, depends_on: Mapping[str, Any], make: Callable[[], Made]) -> Made:
    """What `make` gives, a tokenizer and arrays, from the cache if they were made before.

    Args:
        choice: the tokenizer; where it is quick, nothing is kept.
        depends_on: what they are a function of beside the tokenizer.
    """
    if choice.quick:
        return make()
    return kept(choice, depends_on, make)


def kept(choice: TokenizerChoice, depends_on: Mapping[str, Any], make: Callable[[], Made]) -> Made:
    """The same, kept whatever the tokenizer."""

    def packed() -> Arrays:
        tokenizer, arrays = make()
        state = json.dumps(tokenizer.state()).encode()
        return {_STATE: np.frombuffer(state, dtype=np.uint8), **arrays}

    arrays = cached("tokens", {**depends_on, **choice.identity()}, packed)
    tokenizer = tokenizer_from_state(json.loads(arrays[_STATE].tobytes()))
    return tokenizer, {name: array for name, array in arrays.items() if name != _STATE}


def _of_file(path: Path) -> SubwordTokenizer:
    try:
        return SubwordTokenizer(read_plain(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be used ({one_line(error)}): give the tokenizer.json of a tokenizer"
        ) from error


def _of_hub(name: str) -> SubwordTokenizer:
    hf = library("tokenizers")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every attempt
    try:
        return SubwordTokenizer(hf.Tokenizer.from_pretrained(name).to_str())
    except Exception as error:  # of the network, the hub or the file; the library has no class for all
        raise UserError(
            f"task.tokenizer={name}: neither bytes, chars, bpe nor a file, and cannot be had from the Hugging Face hub "
            f"({type(error).__name__}): mend the name, or see to the network and HF_HUB_OFFLINE"
        ) from error
