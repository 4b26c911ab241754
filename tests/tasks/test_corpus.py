"""Files found, fingerprinted and split."""

import bz2
import functools
import gzip
import hashlib
import lzma
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.errors import UserError
from ablab.tasks import corpus as corpus_module
from ablab.tasks.corpus import SourceFile, fingerprint, read_path, read_stdlib, split_by_name, split_contiguously
from ablab.tasks.tables import read_table


def named(files: list[SourceFile]) -> dict[str, bytes]:
    return {file.name: file.data for file in files}


def test_fingerprint_is_the_hash_of_lengths_names_and_contents() -> None:
    expected = hashlib.sha256(
        bytes(7) + b"\x01" + b"a" + bytes(7) + b"\x02" + b"xy" + bytes(7) + b"\x01" + b"b" + bytes(8)
    )
    assert fingerprint([SourceFile("a", b"xy"), SourceFile("b", b"")]) == expected.hexdigest()


def test_fingerprint_changes_with_content_name_and_their_border() -> None:
    files = [[("ab", b"c")], [("ab", b"d")], [("aa", b"c")], [("a", b"bc")], [("ab", b"c"), ("", b"")]]
    assert len({fingerprint([SourceFile(*file) for file in each]) for each in files}) == len(files)


def test_stdlib_is_its_source_and_nothing_else() -> None:
    files = named(read_stdlib(None))
    root = Path(sysconfig.get_path("stdlib"))
    assert files["json/decoder.py"] == (root / "json/decoder.py").read_bytes()
    assert list(files) == sorted(files)
    assert all(name.endswith(".py") for name in files)
    parts = {part for name in files for part in name.split("/")}
    assert not parts & {"site-packages", "test", "tests", "__pycache__"}
    assert not any(name.startswith("_sysconfigdata") for name in files)  # holds the paths of one machine


def test_stdlib_within_a_limit_is_a_nested_sample() -> None:
    everything, some, less = (named(read_stdlib(limit)) for limit in (None, 2_000_000, 1_000_000))
    assert less.keys() < some.keys() < everything.keys()
    for files, limit in ((some, 2_000_000), (less, 1_000_000)):
        assert 0.5 * limit < sum(map(len, files.values())) <= limit
    assert len({name[0] for name in less}) > 10  # not the head of the alphabet


def test_stdlib_limit_below_any_file() -> None:
    with pytest.raises(UserError, match=r"task\.max_bytes=1: raise it"):
        read_stdlib(1)


def test_a_folder_gives_its_text_files_by_relative_path(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = {"b.txt": b"bee", "a/c.md": "sea \N{SNOWMAN}".encode(), ".git/config": b"hidden"}
    for name, data in {**contents, "image.png": b"\x89PNG\xff", "nul.bin": b"a\0b"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert named(read_path(str(tmp_path), any_bytes=True)) == {"a/c.md": contents["a/c.md"], "b.txt": b"bee"}
    assert "passed over 2 files" in caplog.text


def test_a_glob_gives_its_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x/one.txt", "x/two.md", "x/y/three.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    assert named(read_path("x/**/*.txt", any_bytes=True)) == {"one.txt": b"x/one.txt", "y/three.txt": b"x/y/three.txt"}
    assert named(read_path("x/two.md", any_bytes=False)) == {"two.md": b"x/two.md"}


@pytest.mark.parametrize("pattern", ["x/**/*.txt", "x/**/**/*.txt", "x"])
def test_a_file_with_several_names_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    """Else it would be in training by one name, and in validation by another."""
    (tmp_path / "x/a").mkdir(parents=True)
    (tmp_path / "x/a/one.txt").write_text("one")
    (tmp_path / "x/top.txt").write_text("top")
    (tmp_path / "x/latest").symlink_to("a")
    (tmp_path / "x/z.txt").symlink_to("top.txt")
    (tmp_path / "x/zz.txt").hardlink_to(tmp_path / "x/top.txt")
    monkeypatch.chdir(tmp_path)
    assert named(read_path(pattern, any_bytes=True)) == {"a/one.txt": b"one", "top.txt": b"top"}


def test_what_runs_write_is_no_text_of_the_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the second run of a study in its own data would learn from the first, or find that they have changed."""
    for name in ("notes.txt", "my/outputs/notes.txt", "outputs/study/config.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    for path in (".", "**/*.txt", str(tmp_path)):
        assert list(named(read_path(path, any_bytes=True))) == ["my/outputs/notes.txt", "notes.txt"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked.txt").symlink_to(tmp_path / "outputs/study/config.txt")
    assert list(named(read_path("data", any_bytes=True))) == ["linked.txt"]
    for path in ("outputs", "outputs/study", "outputs/*/*.txt"):  # which is asked for by its name
        assert list(named(read_path(path, any_bytes=True)).values()) == [b"outputs/study/config.txt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such file, folder or match"), (b"", "empty"), (b"\xfe\xfd", "not UTF-8 text.*task.tokenizer=bytes")],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "it.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_path(str(path), any_bytes=False)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        read_path(str(tmp_path), any_bytes=False)
    (tmp_path / "a.bin").write_bytes(b"\xff")
    with pytest.raises(UserError, match="none of its 1 files is UTF-8 text"):
        read_path(str(tmp_path), any_bytes=True)


def test_any_bytes_may_be_learned_as_bytes(tmp_path: Path) -> None:
    for data, binary in ((b"\xff\1\xfe", False), (b"\xff\0\xfe", True)):
        (tmp_path / "a.bin").write_bytes(data)
        assert named(read_path(str(tmp_path / "a.bin"), any_bytes=True, binary=binary)) == {"a.bin": data}


def test_files_are_split_in_the_asked_shares_and_each_once() -> None:
    files = [SourceFile(f"folder/{i}.py", b"") for i in range(4000)]
    splits = split_by_name(files, 0.1, 0.2)
    assert sorted(file.name for part in splits.values() for file in part) == sorted(file.name for file in files)
    for split, share in {"train": 0.7, "val": 0.1, "test": 0.2}.items():
        assert len(splits[split]) / 4000 == pytest.approx(share, abs=0.03)  # 4 standard deviations
    assert "test" not in split_by_name(files, 0.1, 0)


def test_adding_files_moves_none() -> None:
    files = [SourceFile(str(i), b"") for i in range(100)]
    few, many = split_by_name(files[::3], 0.2, 0.2), split_by_name(files, 0.2, 0.2)
    assert all(set(few[split]) <= set(many[split]) for split in many)


@given(length=st.integers(0, 500), val=st.floats(0.01, 0.5), test=st.one_of(st.just(0.0), st.floats(0.01, 0.4)))
def test_one_file_is_cut_into_head_middle_and_tail(length: int, val: float, test: float) -> None:
    text = (np.arange(length) % 128).astype(np.uint8)  # ASCII
    splits = split_contiguously(text, val, test)
    joined = np.concatenate([splits[name] for name in ("train", "val", "test") if name in splits])
    assert joined.tolist() == text.tolist()
    assert ("test" in splits) == (test > 0)
    assert len(splits["train"]) == pytest.approx(length * (1 - val - test), abs=1)
    assert len(splits["val"]) == pytest.approx(length * val, abs=1)


@given(text=st.text(), val=st.floats(0.01, 0.5), test=st.one_of(st.just(0.0), st.floats(0.01, 0.4)))
def test_a_cut_spares_the_character_that_it_falls_into(text: str, val: float, test: float) -> None:
    data = text.encode()
    parts = [part.tobytes() for part in split_contiguously(np.frombuffer(data, np.uint8), val, test).values()]
    assert "".join(part.decode() for part in parts) == text
    assert 0 <= len(parts[0]) - int(len(data) * (1 - val - test)) <= 3


gzipped = functools.partial(gzip.compress, mtime=0)  # else the names of tests would hold the time
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzipped,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".GZ": gzipped,
}


@pytest.mark.parametrize("any_bytes", [True, False])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((f"a.txt{suffix}", pack("Grüße\r\n".encode())) for suffix, pack in PACKERS.items()),
        ("bom.txt", "\ufeffGrüße\r\n".encode()),
        ("wide.txt", "\ufeffGrüße\r\n".encode("utf-16-le")),
        ("wide.txt", "\ufeffGrüße\r\n".encode("utf-16-be")),
        ("wider.txt", "\ufeffGrüße\r\n".encode("utf-32-le")),
        ("bom.txt.gz", gzipped("Grüße\r\n".encode("utf-16"))),
    ],
)
def test_a_text_is_read_as_such_however_it_is_kept(tmp_path: Path, name: str, data: bytes, any_bytes: bool) -> None:
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path / name, tmp_path):  # the file, and the folder that it lies in
        assert named(read_path(str(path), any_bytes=any_bytes)) == {name: "Grüße\r\n".encode()}


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.zip", b"PK\x03\x04rest", "is a ZIP archive, not text"),
        ("a.txt", gzipped(b"text"), "is compressed by gzip, not text"),
        ("a.parquet", b"PAR1rest", "is a Parquet file, not text"),
        ("a.tar", b"notes.txt".ljust(257, b"\0") + b"ustar\x0000rest", "is a tar archive, not text"),
        ("a.tar.xz", lzma.compress(bytes(257) + b"ustar  \0rest"), "is a tar archive, not text"),
        ("a.tar.gz", gzipped(b"PK\x03\x04rest"), "is a ZIP archive, not text"),
        ("a.txt.gz", gzipped(b"text")[:-5], "cannot be unpacked .*fetch it again"),
        ("a.txt.gz", b"text", "cannot be unpacked"),
        ("a.txt.xz", b"text", "cannot be unpacked"),
        ("a.txt", "some text".encode("utf-16-le"), "holds zero bytes: convert it to UTF-8, or .*task.binary=true"),
        ("a.txt", b"\xff\xfea", "begins as utf-16-le, and is none"),
    ],
)
def test_what_is_no_text_is_refused_unless_its_bytes_are_asked_for(
    tmp_path: Path, name: str, data: bytes, says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError, match=says) as caught:
        read_path(str(path), any_bytes=True)
    assert "\n" not in str(caught.value)
    assert named(read_path(str(path), any_bytes=True, binary=True)) == {name: data}


def test_more_than_memory_holds_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole disk as a folder would be read for hours before that is seen."""
    (tmp_path / "all").mkdir()
    for name in ("huge.txt", "all/huge.txt", "huge.csv", "all/a", "all/b"):
        (tmp_path / name).write_bytes(b"text\n" * 3000)
    read_path(str(tmp_path / "all"), any_bytes=True)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=10_000))
    for path in ("huge.txt", "all", "*.txt"):
        with pytest.raises(UserError, match=r": 0 GiB, more than the 0 GiB of memory .*: give a smaller file"):
            read_path(str(tmp_path / path), any_bytes=True)
    with pytest.raises(UserError, match=r"huge\.csv: 0 GiB, more than"):
        read_table(tmp_path / "huge.csv", "text", "label")
    monkeypatch.setattr(corpus_module, "_MOST_FILES", 2)
    with pytest.raises(UserError, match="all: more than 2 files: give a folder of texts alone"):
        read_path(str(tmp_path / "all"), any_bytes=True)
