"""What is in a file, as text: unpacked where its name says that it is packed, in UTF-8, and no archive by mistake."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from ablab.errors import UserError, one_line

_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
_DAMAGED = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
# How files begin that are no text, whatever their name says.
_KINDS = {
    b"\x1f\x8b": "compressed by gzip",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstandard",
    b"PK\x03\x04": "a ZIP archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3\x00": "an SQLite database",
    b"%PDF-": "a PDF",
    b"\x89PNG\r\n": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"\x7fELF": "a program",
    b"\x93NUMPY": "an array of NumPy",
    b"\x89HDF\r\n": "an HDF5 file",
}
_TAR_AT, _TAR = 257, b"ustar"  # behind the name and the rights of its first file
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF_32 = {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"}  # the first begins as UTF-16 does


def text_of(path: Path, data: bytes) -> bytes:
    """The bytes of UTF-8 that a file's own bytes stand for; without a byte order mark, which is no character.

    Raises:
        UserError: it is packed and damaged, in UTF-16 that is none, or of a kind that is no text.
    """
    data = unpacked(path, data)
    if kind := kind_of(data):
        raise UserError(
            f"{path}: is {kind}, not text: give its text, or task.binary=true to learn the bytes as they are"
        )
    for mark, encoding in (_UTF_32 | _UTF_16).items():
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding).encode()
            except ValueError as error:
                raise UserError(f"{path}: begins as {encoding}, and is none ({one_line(error)}): convert it") from error
    return data.removeprefix(codecs.BOM_UTF8)


def unpacked(path: Path, data: bytes) -> bytes:
    """The content of a file whose name ends in `.gz`, `.bz2` or `.xz`; of any other its bytes.

    Raises:
        UserError: it is damaged.
    """
    unpack = _UNPACK.get(path.suffix.lower())
    if unpack is None:
        return data
    try:
        return unpack(data)
    except _DAMAGED as error:
        raise UserError(f"{path}: cannot be unpacked ({one_line(error)}): fetch it again") from error


def kind_of(data: bytes) -> str | None:
    """What a file is that is no text, by how it begins; None of everything else."""
    if data[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return "a tar archive"
    return next((kind for start, kind in _KINDS.items() if data.startswith(start)), None)


def plain_suffix(path: Path) -> str:
    """The ending that says what a file holds, in lower case: ".csv" of "A.CSV.gz"."""
    return (Path(path.stem) if path.suffix.lower() in _UNPACK else path).suffix.lower()
