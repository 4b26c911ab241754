"""ListOps as the Long Range Arena writes it: tab-separated files of bracketed expressions and their values.

A line reads `( ( ( [MAX 4 ) 7 ) ] )`, a tab, `7`. Round brackets say nothing that the square ones do not, and are
dropped, as they are in the Arena's own input pipeline.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ablab.errors import UserError
from ablab.tasks.cache import Arrays, cached
from ablab.tasks.plain_files import check_plain
from ablab.tasks.synthetic.base import Split
from ablab.tasks.synthetic.trees import CLOSE, DIGITS, OPERATOR, OPERATORS, PADDING, ZERO

Bytes = NDArray[np.uint8]

WORDS = {
    **{str(digit): ZERO + digit for digit in range(DIGITS)},
    **{f"[{name}": OPERATOR + number for number, name in enumerate(OPERATORS)},
    "]": CLOSE,
}

_FORMAT = 1  # of what is kept of a file; another one is read anew
_LETTERS = {f"[{name}".encode(): bytes([ord("a") + number]) for number, name in enumerate(OPERATORS)}
_IDS = np.zeros(256, dtype=np.uint8)  # the token that a byte stands for; 0 for none
_IDS[[_LETTERS.get(word.encode(), word.encode())[0] for word in WORDS]] = list(WORDS.values())
_LOWER = re.compile(rb"[a-z]")  # what the letters above stand for, in a file by mistake
_RUN_TOGETHER = re.compile(rb"[^() ]{2}")  # tokens without a space between


def file_of(folder: str, split: Split) -> Path:
    """The file of a split. Raises UserError if there is none."""
    path = Path(os.path.expanduser(folder)) / f"basic_{split}.tsv"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file: task.path={folder} must be a folder with the basic_train.tsv, basic_val.tsv and "
            "basic_test.tsv of the Long Range Arena, or null"
        )
    return path


def sha256(path: Path) -> str:
    """Of the file's content, as hexadecimal digits. Raises UserError if it cannot be read."""
    try:
        if not check_plain(path):
            raise UserError(f"{path}: empty: fetch it again")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def read_expressions(path: Path, checksum: str, seq_len: int) -> Arrays:
    """`inputs` (N, seq_len) and `answers` (N,), both uint8, of the N lines of a file; kept on disk once it was read.

    Args:
        checksum: of the file.

    Raises:
        UserError: a line is damaged, there is none, or an expression is longer than `seq_len`: what the Arena's own
            pipeline would cut off could not be evaluated any more.
    """

    def make() -> Arrays:
        lines = list(_lines(path))
        longest = max((len(tokens) for tokens, _ in lines), default=0)
        if not longest:
            raise UserError(f"{path}: no expression in it: give the file as the Long Range Arena writes it")
        if longest > seq_len:
            raise UserError(
                f"{path}: its longest expression has {longest} tokens, task.seq_len={seq_len}: give task.seq_len=2000, "
                "which holds all of the Long Range Arena's, or as many as that"
            )
        inputs = np.full((len(lines), seq_len), PADDING, dtype=np.uint8)
        for row, (tokens, _) in zip(inputs, lines, strict=True):
            row[: len(tokens)] = tokens
        return {"inputs": inputs, "answers": np.array([answer for _, answer in lines], dtype=np.uint8)}

    return cached("listops_files", {"format": _FORMAT, "sha256": checksum, "seq_len": seq_len}, make)


def _lines(path: Path) -> Iterator[tuple[Bytes, int]]:
    """The tokens and the value of each line."""
    with path.open("rb") as file:
        columns = file.readline().removeprefix(codecs.BOM_UTF8).split()
        if not {b"Source", b"Target"} <= set(columns):
            raise UserError(f"{path}: its first line must name the columns Source and Target: fetch the file again")
        source, target = columns.index(b"Source"), columns.index(b"Target")
        for number, line in enumerate(file, start=2):
            if not line.strip():
                continue
            fields = line.rstrip(b"\r\n").split(b"\t")
            tokens = _tokens(fields[source]) if len(fields) == len(columns) else None
            if tokens is None or not re.fullmatch(rb"[0-9]", fields[target]):
                raise UserError(
                    f"{path}, line {number}: not an expression, a tab and its value from 0 to 9: fetch the file again"
                )
            yield tokens, int(fields[target])


def _tokens(source: bytes) -> Bytes | None:
    """The ids of an expression; None of what is none."""
    if b"[" not in source or _LOWER.search(source):
        return None
    for word, letter in _LETTERS.items():
        source = source.replace(word, letter)
    if _RUN_TOGETHER.search(source):
        return None
    tokens = _IDS[np.frombuffer(source.translate(None, delete=b"() "), dtype=np.uint8)]
    opened = (tokens >= OPERATOR) & (tokens < CLOSE)
    depths = np.cumsum(opened.astype(np.int64) - (tokens == CLOSE))
    balanced = depths[-1] == 0 and (depths[:-1] > 0).all()
    return tokens if tokens.all() and balanced else None
