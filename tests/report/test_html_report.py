"""The page as a browser and a careful reader meet it."""

import dataclasses
import json
import math
import random
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from synthetic import cost, ended, odd_runs, record, runs_of, study, write_runs

from ablab.errors import UserError
from ablab.report.commands import report_command
from ablab.report.context import ReportContext
from ablab.report.formats import render
from ablab.report.html.blocks import LEVELS
from ablab.report.html.page import page as page_of
from ablab.report.html.page import write_report
from ablab.results.collect import collect
from ablab.results.interim import InterimAnalysis
from ablab.results.record import Metric, Record

SCRIPT = "<script>alert('x')</script> & \"quotes\""
SECTIONS = ["verdicts", "effects", "pairs", "power", "curves", "cost", "mechanism", "health", "provenance"]
VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects what the tests ask about, and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["script"]:  # the data for machines
            self.text += data

    def all(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements for key, value in attributes.items() if key == name and value]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    nan = float("nan")
    records = study({"relu": [1.0, 1.1, 1.05, 1.02], "gelu": [1.2, 1.31, 1.24, 1.22], "glu": [1.0, nan, 1.0, 1.1]})
    for item in records[4:8]:
        item.cost = cost(item, flops_total=138_000_000, tokens_per_second=400.0)
    records.append(ended("failed", SCRIPT, 5, axes={"activation": "glu"}))
    for item in records:
        item.config = {**item.config, "question": f"Is it {SCRIPT}?"}
    return write_runs(tmp_path_factory.mktemp("sweep"), records)


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    path = report_command([folder])
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_sections_come_in_order(page: Page) -> None:
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == SECTIONS


def test_nothing_is_loaded_and_nothing_runs(page: Page, text: str) -> None:
    assert not re.search(r"https?://|@import|//cdn", text)
    assert not {"link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert [attributes["type"] for tag, attributes in page.elements if tag == "script"] == ["application/json"]
    assert all(target.startswith("#") for name in ("href", "src", "xlink:href") for target in page.all(name))
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_ids_are_unique_and_every_reference_has_its_target(page: Page, text: str) -> None:
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    targets = {target.removeprefix("#") for target in page.all("href")} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets
    assert targets <= set(ids)


def test_every_figure_says_what_it_shows(page: Page) -> None:
    figures = [attributes for tag, attributes in page.elements if tag == "svg"]
    kinds = [attributes["class"] for attributes in figures]
    assert kinds == ["broad", "narrow"] * 6  # effects, pairs, power, curves, differences, cost
    assert all(figure["role"] == "img" and figure["aria-labelledby"] in page.all("id") for figure in figures)


def test_text_of_records_is_text(page: Page, text: str) -> None:
    assert "<script>" not in text
    assert page.text.count(SCRIPT) >= 2  # the question, the reason


def test_the_data_are_in_the_page(text: str, folder: Path) -> None:
    embedded = text.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(embedded)  # neither an end nor a comment, whatever a name holds
    data = json.loads(embedded)
    assert data == json.loads(render(ReportContext.read([folder]), "json"))
    assert SCRIPT in {run["reason"] for run in data["runs"]}


def test_verdicts_health_and_commands_are_there(page: Page) -> None:
    assert "gelu raises val_loss by 0.200" in page.text
    assert "DOES NOT PAY IN TIME  gelu trains at 0.50 times the speed of the baseline (0.50 to 0.50 over 4" in page.text
    assert "+38% FLOPs against the baseline; the loss is not at equal compute." in page.text
    assert "1/4 diverged" in page.text
    assert "ablab attention=full activation=gelu seed=3" in page.text
    assert "not run" in page.text


def test_every_place_names_the_confidence_of_the_looks(folder: Path, page: Page) -> None:
    runs = collect([folder])
    seeds = sorted({record.seed for record in runs.records if record.status in ("ok", "diverged")})
    seen = tuple(InterimAnalysis(tuple(seeds[:count]), "2026-01-01T00:00:00+00:00") for count in (3, len(seeds)))
    again = Page(page_of(ReportContext.of(dataclasses.replace(runs, interim_analyses=seen)))).text
    first = Page(page_of(ReportContext.of(dataclasses.replace(runs, interim_analyses=seen[1:])))).text
    assert first == page.text
    for said in ("INTERIM ANALYSES", "interim analysis", "97.5%"):
        assert said not in page.text
    assert (
        again.count(f"INTERIM ANALYSES  analysed at 3, then {len(seeds)} seeds, which was not planned: this time") == 1
    )
    assert "has more than one interim analysis" in again
    for said in ("bars their {} CI, ", "paired t intervals ({} CI)", "({} CI 0.", "{} CI"):
        assert said.format("95%") in page.text
        assert said.format("97.5%") in again
    assert again.count("95%") == 2  # bands of curves and the bound on the rate of diverging: no intervals of effects


def test_the_same_records_give_the_same_bytes(folder: Path, text: str, tmp_path: Path) -> None:
    again = report_command([folder], output=tmp_path / "deep" / "again.html")
    assert again.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("case", odd_runs())
def test_odd_runs_make_a_page(case: str) -> None:
    runs = runs_of(odd_runs()[case])
    text = page_of(ReportContext.of(runs))
    page = Page(text)
    assert len(page.all("id")) == len(set(page.all("id")))
    assert len(text.encode()) < 3_000_000


def rich(variants: int, seeds: int, task: str = "language") -> list[Record]:
    """Runs with everything that a page can show: windows of known ceilings, parts, grids, matrices."""
    rng = random.Random(4)
    grid = [f"length={length},depth={depth / 8}" for length in (64, 128, 256, 512, 1024) for depth in range(9)]
    classes = [f"class={name}" for name in ("spam & <ham>", "手紙", "a/b", *range(17))]
    shares = [f"modal_fusion/{q}_from_{k}/layer_{i}" for q in "abc" for k in "abc" for i in range(4)]
    return [
        record(
            seed,
            axes={"task": task, "attention": f"a{variant}"},
            settings={"attention": {"window": 2 ** (variant % 6)}},
            primary=Metric(name="val_accuracy", split="val", direction="max"),
            metrics={
                "val_accuracy": rng.random(),
                **{f"{split}_accuracy/{part}": rng.random() for split in ("val", "test") for part in grid},
                **{f"val_f1/{part}": rng.random() for part in classes},
            },
            mechanism={name: rng.random() / 2 for name in shares},
            oracle={"chance": 0.1, "ceiling": 1.0, **{f"window_{2**power}": power / 8 for power in range(8)}},
            evaluated={"val": 1000, "test": 1000},
        )
        for variant in range(variants)
        for seed in range(seeds)
    ]


def test_what_is_known_and_parts_have_sections_of_their_own_with_headings_to_every_number() -> None:
    runs = runs_of([*rich(2, 2), *rich(2, 1, "vision")])
    page = Page(page_of(ReportContext.of(runs)))
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections == [
        "verdicts",
        "effects",
        "pairs",
        "theory",
        "curves",
        "cost",
        "mechanism",
        "subsets",
        "health",
        "provenance",
    ]
    assert len(page.all("id")) == len(set(page.all("id")))
    heats = [attributes for tag, attributes in page.elements if attributes.get("class") == "heat"]
    captions = [tag for tag, _ in page.elements if tag == "caption"]
    assert len(heats) == len(captions) == 2 * 2 * (2 + 4)  # tasks, variants; val and test, layers
    assert page.text.count("text_from_image") == 0
    assert "class=spam & <ham>" in page.text
    assert {f"h{shade}" for shade in range(LEVELS + 1)} <= set(page.all("class"))
    shades = set(re.findall(r"\.(h\d+) \{", (files("ablab.report.html") / "templates" / "style.css").read_text()))
    assert shades == {f"h{shade}" for shade in range(1, LEVELS + 1)}  # no shade, no colour


def test_a_hundred_runs_with_everything_weigh_less_than_a_megabyte() -> None:
    runs = runs_of(rich(20, 5))
    assert len(page_of(ReportContext.of(runs)).encode()) < 1_000_000


@pytest.mark.parametrize("broken", ["nan", "missing", "null"])
def test_odd_parts_and_known_values_make_a_page(broken: str) -> None:
    records = [*rich(2, 1), ended("failed", "boom", 1, axes={"attention": "none"})]
    for item in records[:1]:
        values = {"nan": dict.fromkeys(item.metrics, math.nan), "missing": {}, "null": item.metrics}
        item.metrics = values[broken]
        item.mechanism = dict.fromkeys(item.mechanism, math.nan)
        item.oracle = dict.fromkeys(item.oracle) if broken == "null" else {}  # type: ignore[assignment]
    runs = runs_of(records)
    page = Page(page_of(ReportContext.of(runs)))
    assert not re.search(r"\bnan\b", page.text)


def test_two_tasks_share_a_page() -> None:
    records = study({"relu": [1.0, 1.1, 1.05], "gelu": [1.2, 1.31, 1.24]})
    others = study({"relu": [2.0, 2.1, 2.05], "gelu": [2.2, 2.31, 2.24]})
    for item in others:
        item.axes = {**item.axes, "task": "vision"}
    runs = runs_of([*records, *others])
    page = Page(page_of(ReportContext.of(runs)))
    assert len(page.all("id")) == len(set(page.all("id")))
    assert page.text.count("vision") > 3
    labels = page.all("aria-label")
    assert len(labels) == len(set(labels))
    assert "Effects, vision: figure" in labels


@pytest.mark.usefixtures("_plain_figures")
def test_what_is_no_text_is_shown_escaped(tmp_path: Path) -> None:
    """As a word of a command line in another encoding than UTF-8, which Python reads as surrogates."""
    item = record(settings={"question": "Is it \udcff?"})
    path = write_report(ReportContext.of(runs_of([item])), tmp_path / "report.html")
    assert r"Is it \udcff?" in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("_plain_figures")
def test_a_place_that_cannot_be_written_to(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        report_command([folder], output=tmp_path / "file" / "report.html")
