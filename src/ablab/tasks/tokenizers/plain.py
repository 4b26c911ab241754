"""Text to ids by its bytes or its characters. A tokenizer is its vocabulary and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.integer[Any]]  # of tokens, (T,), in the smallest type that holds them


@dataclass(frozen=True)
class ByteTokenizer:
    """The bytes of UTF-8: 256 ids, nothing is unknown."""

    name: ClassVar[str] = "bytes"
    vocab_size: ClassVar[int] = 256

    def encode(self, text: str) -> Ids:
        """Ids (T,) of `text`."""
        return self.encode_bytes(text.encode("utf-8"))

    def encode_bytes(self, data: bytes) -> Ids:
        """Ids (T,) of a file's content, whatever it is."""
        return np.frombuffer(data, dtype=np.uint8)

    def separator(self) -> Ids:
        """Ids of what stands behind a text where several follow each other: a newline."""
        return self.encode("\n")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 (a model writes what it likes) become U+FFFD."""
        return bytes(ids).decode("utf-8", errors="replace")

    def bytes_per_token(self) -> NDArray[np.float64]:
        """Bytes of text that each id (256,) stands for."""
        return np.ones(self.vocab_size, dtype=np.float64)

    def state(self) -> dict[str, str]:
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
        return cls.of_many([text])

    @classmethod
    def of_many(cls, texts: Iterable[str]) -> CharTokenizer:
        """The tokenizer whose vocabulary is the characters of all `texts`, of which one at a time is held."""
        seen = np.empty(0, dtype="<u4")
        for text in texts:
            seen = np.union1d(seen, _code_points(text))
        return cls("".join(map(chr, seen)))

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> Ids:
        """Ids (T,) of `text`. Raises ValueError naming a character that is not in the vocabulary."""
        points = _code_points(text)
        ids = np.searchsorted(self._points, points)
        unknown = self._points[np.minimum(ids, self.vocab_size - 1)] != points
        if unknown.any():
            character = text[int(unknown.argmax())]
            raise ValueError(
                f"the character {character!r} is not among the {self.vocab_size} characters of the corpus: leave it out"
            )
        return ids.astype(smallest_dtype(self.vocab_size))

    def encode_bytes(self, data: bytes) -> Ids:
        """Ids (T,) of a file's content. Raises UnicodeDecodeError if it is not UTF-8."""
        return self.encode(data.decode("utf-8"))

    def separator(self) -> Ids:
        """Ids of what stands behind a text where several follow each other: a newline, which must be known."""
        return self.encode("\n")

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`."""
        return "".join(self.vocabulary[i] for i in ids)

    def bytes_per_token(self) -> NDArray[np.float64]:
        """Bytes of UTF-8 that each id (vocab_size,) stands for."""
        return np.array([len(character.encode("utf-8")) for character in self.vocabulary], dtype=np.float64)

    def state(self) -> dict[str, str]:
        return {"tokenizer": self.name, "vocabulary": self.vocabulary}

    @cached_property
    def _points(self) -> NDArray[np.uint32]:
        return _code_points(self.vocabulary)


def smallest_dtype(vocab_size: int) -> type[np.integer[Any]]:
    """The smallest type of ids that torch can take over: batches are cut from an array of it."""
    return np.uint8 if vocab_size <= 2**8 else np.uint16 if vocab_size <= 2**16 else np.int32


def _code_points(text: str) -> NDArray[np.uint32]:
    # A lone surrogate is no text of any file, but encode() must be able to name it.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
