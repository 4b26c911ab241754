"""Pictures of runs in the report: those that can be shown are in it, of the others it says why not."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from synthetic import ended, record, study, write_runs
from test_html_report import SCRIPT, SECTIONS, Page

from ablab.report.commands import report_command
from ablab.report.html.sections.pictures import pictures_of
from ablab.results.collect import collect
from ablab.results.record import Record


def png(seed: int = 0, side: int = 12) -> bytes:
    """Noise, which does not compress."""
    grey = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, records: list[Record], files: dict[int, dict[str, bytes]]) -> Path:
    """The runs with the files of each, by their number; their records name them."""
    for number, named in files.items():
        records[number].pictures = list(named)
    write_runs(folder, records)
    for number, named in files.items():
        for name, data in named.items():
            path = folder / str(number) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    return folder


def page_of(folder: Path) -> Page:
    return Page(report_command([folder]).read_text(encoding="utf-8"))


def images(page: Page) -> list[dict[str, str | None]]:
    return [attributes for tag, attributes in page.elements if tag == "img"]


def content(image: dict[str, str | None]) -> bytes:
    head, _, data = str(image["src"]).partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(data, validate=True)


@pytest.mark.usefixtures("_plain_figures")
def test_without_pictures_there_is_no_section(tmp_path: Path) -> None:
    page = page_of(write_runs(tmp_path, study({"relu": [1.0], "gelu": [1.1]})))
    assert "pictures" not in page.all("id")
    assert not images(page)


@pytest.mark.usefixtures("_plain_figures")
def test_each_variant_shows_its_first_finished_seed(tmp_path: Path) -> None:
    records = [
        ended("failed", "boom", 1, axes={"activation": "relu"}),
        record(3, axes={"activation": "relu"}),
        record(2, axes={"activation": "relu"}),
        record(1, axes={"activation": "gelu"}),
    ]
    files = {number: {"pictures/generated.png": png(number)} for number in range(4)}
    page = page_of(write(tmp_path, records, files))
    assert [content(image) for image in images(page)] == [png(2), png(3)]
    assert [image["alt"] for image in images(page)] == [
        "generated, a picture of activation=relu, seed 2",
        "generated, a picture of activation=gelu, seed 1",
    ]
    assert "generated: activation=gelu, seed 1" in page.text
    ids = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert ids[-3:] == ["pictures", *SECTIONS[-2:]]


def test_what_all_variants_share_is_shown_once(tmp_path: Path) -> None:
    records = study({"relu": [1.0], "gelu": [1.1], "glu": [1.2]})
    files = {n: {"pictures/generated.png": png(n // 2), "pictures/real.png": png(9)} for n in range(3)}
    (found,) = pictures_of(collect([write(tmp_path, records, files)]))
    assert [(each.name, each.whose) for each in found.shown] == [
        ("generated", "activation=relu, seed 1; activation=gelu, seed 1"),
        ("real", "every variant"),
        ("generated", "activation=glu, seed 1"),
    ]


def test_small_pictures_are_enlarged_by_whole_pixels_and_large_ones_are_not(tmp_path: Path) -> None:
    records = study({"relu": [1.0]})
    files = {f"pictures/{side}.png": png(side=side) for side in (1, 71, 200)} | {
        "pictures/wide.png": _flat(1200),
    }
    shown = pictures_of(collect([write(tmp_path, records, {0: files})]))[0].shown
    assert [each.width for each in shown] == [300, 284, 200, 1200]


def _flat(width: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (width, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "pictures/made.png cannot be read (No such file or directory)"),
        (b"", "pictures/made.png is damaged"),
        (b"<svg onload='alert(1)'/>", "pictures/made.png is damaged"),
        (png()[:-30], "pictures/made.png is damaged"),
        (png()[:60] + b"\0\0\0\0" + png()[64:], "pictures/made.png is damaged"),
        (png(side=300), "pictures/made.png has 88 KiB, more than the 64 that are shown"),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(tmp_path: Path, data: bytes | None, message: str) -> None:
    records = study({"relu": [1.0], "gelu": [1.1]})
    files = {0: {"pictures/made.png": data or b""}, 1: {"pictures/made.png": png(1)}}
    write(tmp_path, records, files)
    if data is None:
        (tmp_path / "0" / "pictures" / "made.png").unlink()
    (found,) = pictures_of(collect([tmp_path]))
    assert [each.whose for each in found.shown] == ["activation=gelu, seed 1"]
    assert found.notes == [f"made of activation=relu, seed 1: {message}."]


def test_what_many_pictures_lack_is_said_once(tmp_path: Path) -> None:
    records = study({name: [1.0] for name in ("relu", "gelu", "silu", "glu", "elu")})
    files = {place: {"pictures/made.png": b"" if place < 4 else png()} for place in range(5)}
    (found,) = pictures_of(collect([write(tmp_path, records, files)]))
    assert found.notes == [
        "4 pictures, made of activation=relu, seed 1 among them: pictures/made.png is damaged.",
    ]


def test_files_outside_the_runs_folder_stay_there(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(png())
    records = study({"relu": [1.0]})
    records[0].pictures = ["../private.png"]
    (found,) = pictures_of(collect([write_runs(tmp_path, records)]))
    assert not found.shown
    assert found.notes == ["private of default, seed 1: ../private.png is not in the run's folder."]


def test_names_are_text(tmp_path: Path) -> None:
    name = SCRIPT.replace("/", "|")
    records = [record(1, axes={"activation": f"{SCRIPT} one"}), record(1, axes={"activation": "two"})]
    folder = write(tmp_path, records, {0: {f"pictures/{name}.png": png()}, 1: {f"pictures/{name}.png": b"no picture"}})
    page = page_of(folder)
    assert "<script>" not in (folder / "report.html").read_text(encoding="utf-8")
    assert name in str(images(page)[0]["alt"])
    assert f"{name} of activation=two, seed 1" in page.text


def test_a_page_of_a_hundred_runs_stays_small(tmp_path: Path) -> None:
    """Each with a picture that is as large as may be; what there is no room for is said."""
    records = study({f"option{number}": [1.0, 1.1, 1.2, 1.3, 1.4] for number in range(20)})
    files = {number: {"pictures/made.png": png(number, side=250)} for number in range(0, 100, 5)}
    page = page_of(write(tmp_path, records, files))
    shown = len(images(page))
    assert 5 <= shown < 20
    left_out = (
        f"{20 - shown} pictures, made of activation=option{shown}, seed 1 among them: left out, since the page holds"
    )
    assert page.text.count(left_out) == 1
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
