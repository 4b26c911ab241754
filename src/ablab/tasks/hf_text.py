"""Language modelling of any data set of Hugging Face, from the hub or from a folder."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.results.record import Corpus
from ablab.tasks.corpus import unit_hash
from ablab.tasks.hugging_face import DocumentSource
from ablab.tasks.language import LanguageSettings, LanguageTask
from ablab.tasks.tokenizers import CharTokenizer, Ids, Tokenizer
from ablab.tasks.tokenizers.choice import TokenizerChoice, kept

_BYTES_PER_TOKEN = 4  # at most, of a character; and about as many as a byte pair token has in English
_SEPARATOR = "\n"
_FACTS = "facts"  # kept beside the tokens: documents, bytes
_SHA256 = "sha256"  # and the hash of all of it


class HFText(LanguageTask):
    """The documents of a data set, one after the other, each followed by a separator.

    That is the tokenizer's token for the end of a text where it has one, else a newline; either counts as one byte in
    `bits_per_byte`. Documents are streamed through the tokenizer; the tokens are kept on the disk (`cache`) under the
    hash of a folder's files, or the commit of a data set on the hub, and are not made again.

    Args:
        path: a folder, in any format that `datasets.load_dataset` takes or as `save_to_disk` wrote it; else the name of
            a data set on the hub.
        name: its configuration; None where there is one.
        revision: branch, tag or commit on the hub; None for the newest.
        text_column: where the text is.
        train_split, val_split, test_split: names of the data set's splits. Without `val_split`, documents are cut off
            the training split by a hash of their text; without `test_split` there is no test.
        val_fraction: expected share of the documents that are then cut off; the two share the budget of one split.
        max_bytes: of text to take from each split, from its beginning; None for all. It is the same text for every
            tokenizer.
        max_tokens: to take from each split; None for all.
        tokenizer, bpe_vocab_size: as `TokenizerChoice` says.
        (the others): as `LanguageTask` says.

    Raises:
        ValueError: a number is out of range, or one split is to be two.
        UserError: no path was given.
    """

    def __init__(
        self,
        *,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        text_column: str = "text",
        train_split: str = "train",
        val_split: str | None = "validation",
        test_split: str | None = None,
        val_fraction: float = 0.1,
        max_bytes: int | None = None,
        max_tokens: int | None = None,
        tokenizer: str = "bytes",
        bpe_vocab_size: int = 4096,
        **settings: Unpack[LanguageSettings],
    ) -> None:
        super().__init__(**settings)
        if not path or path == "???":  # what OmegaConf calls a missing value
            raise UserError("task.path is missing: give a folder, or the name of a data set on the Hugging Face hub")
        if not 0 < val_fraction < 1:
            raise ValueError(f"task.val_fraction={val_fraction}: must be above 0 and below 1")
        for key, budget in {"max_bytes": max_bytes, "max_tokens": max_tokens}.items():
            if budget is not None and budget < 1:
                raise ValueError(f"task.{key}={budget}: must be at least 1, or null for all")
        given = [split for split in (train_split, val_split, test_split) if split is not None]
        if len(set(given)) < len(given):
            raise ValueError(f"task.train_split, val_split and test_split must differ, got {', '.join(given)}")
        self.path, self.configuration, self.revision, self.text_column = path, name, revision, text_column
        self.names = {"train": train_split, "val": val_split, "test": test_split}
        self.val_fraction, self.max_bytes, self.max_tokens = val_fraction, max_bytes, max_tokens
        self.tokenizer = TokenizerChoice(tokenizer, bpe_vocab_size)

    def _load(self) -> tuple[Tokenizer, dict[str, Ids], Corpus]:
        source = DocumentSource(self.path, name=self.configuration, revision=self.revision, column=self.text_column)
        depends_on = {
            "source": source.identity,
            "column": self.text_column,
            "splits": self.names,
            "val_fraction": self.val_fraction if self._cut else None,
            "budgets": [self.max_bytes, self.max_tokens],
        }
        tokenizer, arrays = kept(self.tokenizer, depends_on, lambda: self._tokenise(source))
        documents, size_bytes = map(int, arrays[_FACTS])
        corpus = Corpus(
            name=str(source),
            sha256=arrays[_SHA256].tobytes().hex(),  # of the tokenizer and the tokens
            size_bytes=size_bytes,
            files=documents,
        )
        return tokenizer, {split: arrays[split] for split in self._served}, corpus

    @property
    def _cut(self) -> bool:
        """Whether validation is cut off training."""
        return self.names["val"] is None

    @property
    def _served(self) -> list[str]:
        return ["train", "val", *(["test"] if self.names["test"] else [])]

    def _tokenise(self, source: DocumentSource) -> tuple[Tokenizer, dict[str, NDArray[Any]]]:
        def sample(split: str) -> Iterator[str]:  # of at least as much text as the tokens will be made of, if not all
            limit = None if self.max_tokens is None else _BYTES_PER_TOKEN * self.max_tokens
            return _within(self._documents(source, split), self._budget(split, limit))

        tokenizer = self.tokenizer.make(
            training=lambda: sample("train"),
            corpus=lambda: itertools.chain([_SEPARATOR], *map(sample, self._served)),
        )
        arrays: dict[str, NDArray[Any]] = {}
        documents, digest = 0, hashlib.sha256(repr(tokenizer.state()).encode())
        for split in self._served:
            texts = self._documents(source, split)
            arrays[split], count = _encode(tokenizer, texts, self._budget(split, self.max_tokens))
            documents += count
            digest.update(len(arrays[split]).to_bytes(8, "big"))
            digest.update(arrays[split].data)
        sizes = tokenizer.bytes_per_token()
        bytes_ = sum(np.bincount(arrays[split], minlength=len(sizes)) @ sizes for split in self._served)
        facts = {_FACTS: np.array([documents, int(bytes_)]), _SHA256: np.frombuffer(digest.digest(), dtype=np.uint8)}
        return tokenizer, arrays | facts

    def _documents(self, source: DocumentSource, split: str) -> Iterator[str]:
        """Those of one of our splits, within the budget of bytes."""
        if not self._cut or split == "test":
            setting = f"task.{split}_split"
            setting += " (null cuts it off training; or one of these, as task.val_split=test)" if split == "val" else ""
            documents = source.documents(str(self.names[split]), setting)
        else:
            all_of_it = source.documents(str(self.names["train"]), "task.train_split")
            val = self.val_fraction
            documents = (text for text in all_of_it if (unit_hash("split", text) < val) == (split == "val"))
        return _within(documents, self._budget(split, self.max_bytes))

    def _budget(self, split: str, budget: int | None) -> int | None:
        if budget is None or not self._cut or split == "test":
            return budget
        return max(1, int(budget * (self.val_fraction if split == "val" else 1 - self.val_fraction)))


def _within(documents: Iterable[str], limit: int | None) -> Iterator[str]:
    """The first documents, of `limit` bytes of UTF-8 together; the last of them is cut, behind a whole character."""
    left = limit
    for text in documents:
        if left is None:
            yield text
            continue
        data = text.encode("utf-8")
        if len(data) >= left:
            if cut := data[:left].decode("utf-8", errors="ignore"):
                yield cut
            return
        yield text
        left -= len(data)


def _encode(tokenizer: Tokenizer, documents: Iterable[str], limit: int | None) -> tuple[Ids, int]:
    """The tokens (N,) of the documents, N at most `limit`, and how many documents these are."""
    separator, tokens, count = tokenizer.separator(), bytearray(), 0
    for text in documents:
        if limit is not None and isinstance(tokenizer, CharTokenizer):  # what is cut off may have characters of its own
            text = text[: limit - len(tokens) // separator.itemsize]
        tokens += tokenizer.encode(text).tobytes() + separator.tobytes()
        count += 1
        if limit is not None and len(tokens) >= limit * separator.itemsize:
            break
    return np.frombuffer(tokens, dtype=separator.dtype)[:limit], count
