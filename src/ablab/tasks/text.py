"""The options of the axis `task`: language modelling of the running Python's own source, or of files of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.results.record import Corpus
from ablab.tasks.corpus import (
    SourceFile,
    checked_fractions,
    fingerprint,
    read_path,
    read_stdlib,
    split_by_name,
    split_contiguously,
)
from ablab.tasks.language import LanguageSettings, LanguageTask
from ablab.tasks.tokenizers import ByteTokenizer, Ids, Tokenizer
from ablab.tasks.tokenizers.choice import TokenizerChoice, tokenised


class SourceText(LanguageTask):
    """Bytes of the standard library of the Python that runs this: real text that is on every machine.

    Files are split by a hash of their paths. Another version of Python is another corpus, which the record's corpus
    hash tells.

    Args:
        max_bytes: use this much of the library, a sample of its files; None for all of it.
        val_fraction, test_fraction: expected shares of the files; `test_fraction` may be 0.
        (the others): as `LanguageTask` says.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self,
        *,
        max_bytes: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        **settings: Unpack[LanguageSettings],
    ) -> None:
        super().__init__(**settings)
        self.max_bytes = max_bytes
        self.fractions = checked_fractions(val_fraction, test_fraction)

    def _load(self) -> tuple[Tokenizer, dict[str, Ids], Corpus]:
        files = read_stdlib(self.max_bytes)
        tokenizer = self.tokenizer.make(training=list, corpus=list)  # bytes, or a trained run's: nothing to learn
        parts = _parts(files, *self.fractions)
        splits = {split: tokenizer.encode_bytes(part.tobytes()) for split, part in parts.items()}
        return tokenizer, splits, _corpus("the Python standard library", files)


class Text(LanguageTask):
    """A file, the text files of a folder, or those that match a glob.

    Many files are split by a hash of their paths below the folder; a single file into head (train), middle (val) and
    tail (test), by its bytes of UTF-8, so that every tokenizer is given the same.

    Args:
        path: the file, folder or glob; a relative one starts at the working directory.
        binary: learn the bytes of a single file as they are; else one that is packed (.gz, .bz2, .xz) is unpacked, one
            in UTF-16 is read as such, and one that is no text, such as an archive, is refused.
        tokenizer, bpe_vocab_size: as `TokenizerChoice` says; the vocabulary of "chars" is that of the whole corpus.
        val_fraction, test_fraction: shares of the single file, or expected shares of the files; the latter may be 0.
        (the others): as `LanguageTask` says.

    Raises:
        ValueError: a number is out of range.
        UserError: no path was given.
    """

    def __init__(
        self,
        *,
        path: str,
        binary: bool = False,
        tokenizer: str = "bytes",
        bpe_vocab_size: int = 4096,
        val_fraction: float = 0.1,
        test_fraction: float = 0.0,
        **settings: Unpack[LanguageSettings],
    ) -> None:
        super().__init__(**settings)
        if not path or path == "???":  # what OmegaConf calls a missing value
            raise UserError("task.path is missing: give a file, a folder or a glob, for example task.path=notes.txt")
        self.path, self.tokenizer = path, TokenizerChoice(tokenizer, bpe_vocab_size)
        if binary and not self.tokenizer.any_bytes:
            raise ValueError(f"task.binary=true: task.tokenizer={tokenizer} reads text; use task.tokenizer=bytes")
        self.binary = binary
        self.fractions = checked_fractions(val_fraction, test_fraction)

    def _load(self) -> tuple[Tokenizer, dict[str, Ids], Corpus]:
        files = read_path(self.path, any_bytes=self.tokenizer.any_bytes, binary=self.binary)
        depends_on = {"files": fingerprint(files), "fractions": self.fractions, "cut": "bytes"}
        tokenizer, splits = tokenised(self.tokenizer, depends_on, lambda: self._tokenise(files))
        return tokenizer, splits, _corpus(self.path, files)

    def _tokenise(self, files: Sequence[SourceFile]) -> tuple[Tokenizer, dict[str, Ids]]:
        parts = _parts(files, *self.fractions)
        if self.tokenizer.any_bytes:
            return ByteTokenizer(), {**parts}  # which are its ids
        texts = {split: part.tobytes().decode("utf-8") for split, part in parts.items()}
        tokenizer = self.tokenizer.make(training=lambda: [texts["train"]], corpus=texts.values)
        return tokenizer, {split: tokenizer.encode(text) for split, text in texts.items()}


def _parts(files: Sequence[SourceFile], val: float, test: float) -> dict[str, NDArray[np.uint8]]:
    """The bytes of each split, the same for every tokenizer."""
    if len(files) == 1:
        return split_contiguously(np.frombuffer(files[0].data, np.uint8), val, test)
    splits = split_by_name(files, val, test)
    return {split: np.frombuffer(b"".join(file.data for file in own), np.uint8) for split, own in splits.items()}


def _corpus(name: str, files: Sequence[SourceFile]) -> Corpus:
    size_bytes = sum(len(file.data) for file in files)
    return Corpus(name=name, sha256=fingerprint(files), size_bytes=size_bytes, files=len(files))
