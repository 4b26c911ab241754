"""Text to ids and back. Both tokenizers are their vocabulary and nothing else, and travel in a checkpoint as such."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ByteTokenizer:
    """The bytes of UTF-8: 256 ids, nothing is unknown."""

    name: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = 256

    def encode(self, text: str) -> NDArray:
        """Ids (T,) of `text`."""
        return self.encode_bytes(text.encode("utf-8"))

    def encode_bytes(self, data: bytes) -> NDArray:
        """Ids (T,) of a file's content, whatever it is."""
        return np.frombuffer(data, dtype=np.uint8)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 (a model writes what it likes) become U+FFFD."""
        return bytes(ids).decode("utf-8", errors="replace")

    def bytes_per_token(self) -> NDArray:
        """Bytes of text that each id (256,) stands for."""
        return np.ones(self.vocab_size, dtype=np.float64)

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.name}


@dataclass(frozen=True)
class CharTokenizer:
    """One id per character (Unicode code point), numbered in the order of their code points.

    Attributes:
        vocabulary: the known characters, sorted, each once.
    """

    name: ClassVar[str] = "chars"
    vocabulary: str

    @classmethod
    def of(cls, text: str) -> CharTokenizer:
        """The tokenizer whose vocabulary is the characters of `text`."""
        return cls("".join(map(chr, np.unique(_code_points(text)))))

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> NDArray:
        """Ids (T,) of `text`. Raises ValueError naming a character that is not in the vocabulary."""
        points = _code_points(text)
        ids = np.searchsorted(self._points, points)
        unknown = self._points[np.minimum(ids, self.vocab_size - 1)] != points
        if unknown.any():
            character = text[int(unknown.argmax())]
            raise ValueError(
                f"the character {character!r} is not among the {self.vocab_size} characters of the corpus: leave it out"
            )
        return ids.astype(self._dtype)

    def encode_bytes(self, data: bytes) -> NDArray:
        """Ids (T,) of a file's content. Raises UnicodeDecodeError if it is not UTF-8."""
        return self.encode(data.decode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`."""
        return "".join(self.vocabulary[i] for i in ids)

    def bytes_per_token(self) -> NDArray:
        """Bytes of UTF-8 that each id (vocab_size,) stands for."""
        return np.array([len(character.encode("utf-8")) for character in self.vocabulary], dtype=np.float64)

    def state(self) -> dict[str, Any]:
        return {"tokenizer": self.name, "vocabulary": self.vocabulary}

    @cached_property
    def _points(self) -> NDArray:
        return _code_points(self.vocabulary)

    @property
    def _dtype(self) -> type[np.integer]:
        """The smallest type that torch can take over: batches are cut from an array of it."""
        return np.uint8 if self.vocab_size <= 2**8 else np.uint16 if self.vocab_size <= 2**16 else np.int32


Tokenizer = ByteTokenizer | CharTokenizer


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """The tokenizer that `state()` described."""
    return CharTokenizer(state["vocabulary"]) if state["tokenizer"] == CharTokenizer.name else ByteTokenizer()


def _code_points(text: str) -> NDArray:
    # A lone surrogate is no text of any file, but encode() must be able to name it.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
