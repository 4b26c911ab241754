"""Text to ids by a vocabulary of subwords, with the `tokenizers` library of Hugging Face."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ablab.errors import one_line
from ablab.tasks.hugging_face import library
from ablab.tasks.tokenizers.plain import Ids, smallest_dtype

END = "<|endoftext|>"
# What the published tokenizers call the token behind a text; their file does not say which of its tokens that is.
_KNOWN_ENDS = (END, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")
_PIECE = 2**20  # characters; the library needs a hundred times as much memory as the text that it is given at once
_BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of a vocabulary that falls back to bytes for what it does not know


@dataclass(frozen=True)
class SubwordTokenizer:
    """A tokenizer of the library: trained here (`bpe`), or pretrained.

    Special tokens stand between texts and nowhere in them: a text that spells one is cut up like any other, none is
    put in front, and a tokenizer's own limits of length do not count.

    Attributes:
        json: all of it, as the library writes `tokenizer.json`.

    Raises:
        UserError: the library is not installed.
        ValueError: `json` is not that of a tokenizer.
    """

    name: ClassVar[str] = "subwords"
    json: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "json", _plain(self.json))  # equal tokenizers are equally written

    @classmethod
    def bpe(cls, texts: Iterable[str], vocab_size: int) -> SubwordTokenizer:
        """Byte-level byte pair encoding (Sennrich et al. 2016, with GPT-2's bytes and cuts between words), trained.

        Args:
            texts: what to train on; one at a time is held.
            vocab_size: ids at most, of which 256 are bytes and one (id 0) is the end of a text.
        """
        hf = library("tokenizers")
        tokenizer = hf.Tokenizer(hf.models.BPE())
        tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = hf.decoders.ByteLevel()
        trainer = hf.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END],
            initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),  # all bytes, so that nothing is unknown
            show_progress=False,
        )
        tokenizer.train_from_iterator((piece for text in texts for piece in _pieces(text)), trainer)
        return cls(tokenizer.to_str())

    @cached_property
    def vocab_size(self) -> int:
        largest: int = max(self._library.get_vocab(with_added_tokens=True).values())
        return largest + 1  # ids may have gaps

    def encode(self, text: str) -> Ids:
        """Ids (T,) of `text`. Raises ValueError if it holds half of a character (a lone surrogate)."""
        text.encode("utf-8")  # raises, where the library would blame the type
        ids = [i for piece in _pieces(text) for i in self._library.encode(piece, add_special_tokens=False).ids]
        return np.array(ids, dtype=smallest_dtype(self.vocab_size))

    def encode_bytes(self, data: bytes) -> Ids:
        """Ids (T,) of a file's content. Raises UnicodeDecodeError if it is not UTF-8."""
        return self.encode(data.decode("utf-8"))

    def separator(self) -> Ids:
        """Ids of what stands behind a text where several follow each other: its token for that, or else a newline."""
        if self._end is None:
            return self.encode("\n")
        return np.array([self._end], dtype=smallest_dtype(self.vocab_size))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens by their names; bytes that are not UTF-8 become U+FFFD."""
        text: str = self._library.decode(list(ids), skip_special_tokens=False)
        return text

    def bytes_per_token(self) -> NDArray[np.float64]:
        """Bytes of UTF-8 that each id (vocab_size,) stands for; 0 for special tokens.

        The token behind a text counts as the newline that stands there for other tokenizers does: predicting either is
        a part of the loss, and short texts have many.

        Where the vocabulary is made of bytes these are exact, and add up to those of the text. Elsewhere they are what
        the token adds to a text that it follows: its spaces count, and what a tokenizer changes (case, say) does not.
        """
        sizes = np.zeros(self.vocab_size, dtype=np.float64)
        described = json.loads(self.json)
        special = {token["id"] for token in described["added_tokens"] if token["special"]}
        added = {token["id"] for token in described["added_tokens"]}
        byte_level = '"ByteLevel"' in json.dumps(described["decoder"])
        before = self._library.encode("a", add_special_tokens=False).ids
        start = len(self.decode(before).encode("utf-8"))
        for token, i in self._library.get_vocab(with_added_tokens=True).items():
            if i in special:
                continue
            if byte_level and i not in added:
                sizes[i] = len(token)  # each of its characters stands for one byte
            elif _BYTE.fullmatch(token):
                sizes[i] = 1
            else:
                sizes[i] = max(0, len(self.decode([*before, i]).encode("utf-8")) - start)
        if self._end is not None:
            sizes[self._end] = 1
        return sizes

    def state(self) -> dict[str, str]:
        return {"tokenizer": self.name, "json": self.json}

    @cached_property
    def _end(self) -> int | None:
        """The token behind a text."""
        known = (self._library.token_to_id(token) for token in _KNOWN_ENDS)
        return next((i for i in known if i is not None), None)

    @cached_property
    def _library(self) -> Any:
        tokenizer = library("tokenizers").Tokenizer.from_str(self.json)
        tokenizer.encode_special_tokens = True  # as text, not as themselves; it is not kept in the JSON
        return tokenizer

    def __getstate__(self) -> dict[str, object]:
        return {"json": self.json}  # what is cached is quickly made again


def _plain(text: str) -> str:
    """The JSON of a tokenizer that neither cuts nor fills up texts."""
    hf = library("tokenizers")
    try:
        tokenizer = hf.Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing more special
        raise ValueError(f"not the JSON of a tokenizer ({one_line(error)})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    written: str = tokenizer.to_str()
    return written


def _pieces(text: str) -> Iterable[str]:
    return (text[first : first + _PIECE] for first in range(0, len(text), _PIECE))
