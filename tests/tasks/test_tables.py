"""Tables of texts with labels, good and bad."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.errors import UserError
from ablab.tasks.tables import read_table, read_tables

CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1)


def written(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps({"label": label, "text": text}) + "\n" for text, label in rows)
        else:
            separator = "," if path.suffix == ".csv" else "\t"
            writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows([("text", "label"), *rows])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
@settings(max_examples=50, deadline=None)  # it writes files
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1))
def test_rows_are_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[tuple[str, str]]
) -> None:
    path = written(tmp_path_factory.getbasetemp() / f"written{suffix}", rows)
    table = read_table(path, "text", "label")
    assert list(zip(table.texts, table.labels, strict=True)) == rows
    assert table.file.data == path.read_bytes()


def test_words_that_pandas_takes_for_nothing_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufefftext,label,more\nNA,1,x\n2020-01-01,null,\n", encoding="utf-8")
    table = read_table(path, "text", "label")
    assert (table.texts, table.labels) == (["NA", "2020-01-01"], ["1", "null"])


def test_labels_of_json_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "2020-01-01", "label": 3}\n\n{"text": "b\\u2028", "label": true}\n')
    table = read_table(path, "text", "label")
    assert (table.texts, table.labels) == (["2020-01-01", "b\u2028"], ["3", "true"])


@pytest.mark.parametrize("val", ["val.csv", "validation.jsonl", "dev.tsv"])
def test_a_folder_has_a_file_for_each_split(tmp_path: Path, val: str) -> None:
    for name in ("train.csv", val, "notes.csv"):
        written(tmp_path / name, [(name, "x")])
    assert {split: table.texts for split, table in read_tables(str(tmp_path), "text", "label").items()} == {
        "train": ["train.csv"],
        "val": [val],
    }
    written(tmp_path / "test.tsv", [("tested", "x")])
    assert read_tables(str(tmp_path), "text", "label")["test"].texts == ["tested"]


def test_a_folder_without_the_splits(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", [("a", "x")])
    with pytest.raises(UserError, match=r"no val split: give val or validation or dev with one of the endings \.csv"):
        read_tables(str(tmp_path), "text", "label")
    written(tmp_path / "val.csv", [("a", "x")])
    written(tmp_path / "dev.csv", [("a", "x")])
    with pytest.raises(UserError, match=r"both val\.csv and dev\.csv may be the val split: keep one"):
        read_tables(str(tmp_path), "text", "label")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"body,label\nx,y\n", "row 1 has the columns body, label, not text: mend task.text_column"),
        ("a.csv", b"text,kind\nx,y\n", "row 1 has the columns text, kind, not label: mend task.label_column"),
        (
            "a.csv",
            b"text, label\nx,y\n",
            r"text, ' label', not label: did you mean task.label_column=' label'\?",
        ),
        ("a.csv", b"Text,Label\nx,y\n", r"columns Text, Label, not text: did you mean task.text_column=Text\?"),
        ("a.csv", b"text,label\nx,y\ntext,label\nz,y\n", "row 2 is the header once more: leave it out"),
        ("a.tsv", b"text\tlabel\nx\ty\nonly\n", "row 2 has 1 fields, its first line names 2: mend that row"),
        ("a.json", b"[1]", "not a list of JSON objects"),
        ("a.json", b"[{", "not JSON"),
        ("a.csv", b"", "empty: give a file with rows"),
        ("a.csv", b"text,label\n", "empty: give a file with rows"),
        ("a.csv", b"text,label\nx,y\nx,y,z\n", "not a table .*Expected 2 fields in line 3, saw 3.*mend that row"),
        ("a.csv", b"text,label\nx,y,z\nx,y,z\n", "more fields than its first line has names"),
        ("a.csv", b'text,label\n"x,y\n', "not a table .*EOF inside string"),
        (
            "a.csv",
            b'text,label\nw,y\n"x,y\n"y,z\n',
            "row 2 has text behind a closing quote .*: put its texts in quotes",
        ),
        ("a.csv", b"text,label\nx,y\nonly\n", "row 2 has no label in label"),
        ("a.csv", b"text,label\n,y\n", "row 1 has no text in text"),
        ("a.csv", b"text,label\n\xff,y\n", "not UTF-8 text .byte 11.: convert it"),
        ("a.txt", b"text,label\nx,y\n", "of no known kind: give a file that ends in .csv, .tsv, .jsonl"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n{"text"\n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is no JSON object"),
        ("a.jsonl", b'{"text": 3, "label": "y"}\n', "row 1 has no text in text .it holds 3."),
        ("a.jsonl", b'{"text": "x", "label": null}\n', "row 1 has no label in label .it holds None."),
        ("a.jsonl", b'{"text": "\\ud800", "label": "y"}\n', "row 1 has half of a character in text"),
        ("a.jsonl", b'{"text": "x", "label": "\\ud800"}\n', "row 1 has half of a character in label"),
        ("a.json", b"[" * 100_000, "not JSON .*: mend it"),
        ("a.json", b'{"a":' * 100_000, "line 1 is not JSON .*: mend it"),
        ("a.jsonl", b'{"text": "x", "label": "y"}\n' + b"[" * 100_000, "line 2 is not JSON .*: mend it"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read_tables(str(tmp_path / name), "text", "label")
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"none\.csv: no such file or folder in .*: mend task.path"):
        read_tables("none.csv", "text", "label")


def test_lines_end_as_they_do_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x", "label": "y"}\r\n')
    (tmp_path / "a.csv").write_bytes(b"text,label\r\nx,y\r\n")
    for name in ("a.jsonl", "a.csv"):
        table = read_table(tmp_path / name, "text", "label")
        assert (table.texts, table.labels) == (["x"], ["y"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.CSV", "text,label\nx,1.0\n"),
        ("a.Tsv", "text\tlabel\nx\t1.0\n"),
        ("a.ndjson", '{"text": "x", "label": 1.0}\n'),
        ("a.JSONL", '{"text": "x", "label": 1.0}\n'),
        ("a.json", '[{"text": "x", "label": 1.0}]'),
        ("a.json", '{"text": "x", "label": 1.0}\n'),
        ("a.csv.gz", "text,label\nx,1.0\n"),
        ("a.csv", "\ufefftext,label\r\n\r\nx,1.0\r\n"),
        ("a.csv", "text,label\rx,1.0\r"),
        ("a.tsv", "\ufefftext\tlabel\r\nx\t1.0\r\n"),
        ("a.tsv", "text\tlabel\rx\t1.0\r"),
        ("a.jsonl", '\ufeff{"text": "x", "label": 1.0}\r\n'),
        ("a.json", '\ufeff[{"text": "x",\r\n"label": 1.0}]\r\n'),
    ],
)
def test_a_table_is_read_by_what_its_name_says(tmp_path: Path, name: str, content: str) -> None:
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    table = read_table(tmp_path / name, "text", "label")
    assert (table.texts, table.labels) == (["x"], ["1.0"])


def test_a_table_in_utf_16(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes("text\tlabel\nGrüße\tNA\n".encode("utf-16"))
    table = read_table(tmp_path / "a.tsv", "text", "label")
    assert (table.texts, table.labels) == (["Grüße"], ["NA"])


@given(places=st.sets(st.integers(0, 39)), at_end=st.booleans())
def test_stray_quotes_join_no_lines(tmp_path_factory: pytest.TempPathFactory, places: set[int], at_end: bool) -> None:
    texts = [
        f'{number} "x' if at_end else f'"{number} x' if number in places else f"{number} x" for number in range(40)
    ]
    path = tmp_path_factory.getbasetemp() / "stray.tsv"
    path.write_text("text\tlabel\n" + "".join(f"{text}\tz\n" for text in texts))
    table = read_table(path, "text", "label")
    assert table.texts == texts
    assert table.labels == ["z"] * 40
