"""Certificates: how a target is found, what is printed, and that what is wrong is told by the check that is for it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from ablab.certify import Certificate, Check, certify, check_names
from ablab.cli.commands import run_command
from ablab.config import AXES
from ablab.errors import UserError

HERE = Path(__file__).parent
QUICK = ("settings", "knock-out")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The faulty components are the user's, in the working folder."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(HERE)])
    monkeypatch.chdir(tmp_path)


def outcomes(certificate: Certificate) -> dict[str, str]:
    return {check.name: check.outcome for check in certificate.checks}


def details(certificate: Certificate) -> str:
    return "\n".join(check.detail for check in certificate.failed)


def test_the_page_has_every_check_of_every_axis() -> None:
    page = (HERE.parents[1] / "docs" / "verify.md").read_text(encoding="utf-8")
    of_components, rest = page.split("| check |")[1].split("| optimizer |")
    rest = f"| optimizer |{rest}"
    tables = {"attention": of_components}
    for axis, following in (("optimizer", "| schedule |"), ("schedule", "| task |"), ("task", "## Limits")):
        tables[axis] = rest.split(f"| {axis} |")[1].split(following)[0]
    for axis, table in tables.items():
        named = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
        assert set(check_names(axis)) - {"settings"} == set(named) - {"settings"}, axis


def test_a_right_component_passes_every_check() -> None:
    names = [name for name in check_names("activation") if name != "compile"]  # which takes as long as all others
    certificate = certify("faulty_components.Sine", axis="activation", checks=names)
    assert certificate.passed, details(certificate)
    assert [check.name for check in certificate.checks] == names
    skipped = {name for name, outcome in outcomes(certificate).items() if outcome == "skipped"}
    assert skipped == {"identity", "visits", "claims", "ahead", "cache"}


@pytest.mark.parametrize(
    ("name", "checks", "failed"),
    [
        ("Peeking", ("future", "future-gradients", "cut", "batch"), {"future", "future-gradients", "cut"}),
        ("Deaf", ("gradients", "parameters", "effects", "scale"), {"gradients", "parameters", "effects"}),
        ("Forgetful", ("repeats", "resume", "registered"), {"repeats", "resume"}),
    ],
)
def test_a_wrong_component_fails_what_is_for_it(name: str, checks: tuple[str, ...], failed: set[str]) -> None:
    axis = None if name == "Forgetful" else "activation"  # a norm, which its base class tells
    certificate = certify(f"faulty_components.{name}", axis=axis, checks=checks)
    assert {check.name for check in certificate.failed} == failed, details(certificate)
    assert certificate.axis == (axis or "norm")


def test_targets_are_classes_options_and_files(tmp_path: Path) -> None:
    own = tmp_path / "conf" / "activation"
    own.mkdir(parents=True)
    text = "_target_: faulty_components.Sine\n_partial_: true\nfrequency: 2.0\n"
    (own / "mine.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "loose.yaml").write_text(text, encoding="utf-8")
    for target, axis, folders in [
        ("faulty_components.Sine", None, []),
        (str(own / "mine.yaml"), None, []),
        ("activation=mine", None, [tmp_path / "conf"]),
        (str(tmp_path / "loose.yaml"), "activation", []),
    ]:
        words = ["activation.frequency=0.5", "model.d_model=16"]
        certificate = certify(target, axis=axis, overrides=words, checks=QUICK, config_dirs=folders)
        assert (certificate.passed, certificate.axis) == (True, "activation"), details(certificate)


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("activation=gelo", {}, "gelo"),
        ("activations=gelu", {}, r"activations: no such axis; did you mean 'activation'\?"),
        ("nowhere.Thing", {}, "there is no module nowhere"),
        ("faulty_components.Sin", {}, "did you mean Sine"),
        ("faulty_components.outcomes", {}, "has no outcomes"),
        ("json.dumps", {}, "say which it is an option of, by --axis"),
        ("nothing", {}, "give a class"),
        ("gone.yaml", {}, "no such file"),
        ("norm=rms", {"checks": ["futures"]}, r"--check futures: no such check; did you mean 'future'"),
        ("norm=rms", {"overrides": ["norm.epsilon=1"]}, "epsilon"),
        ("norm=rms", {"config_dirs": [Path("nowhere")]}, "no such folder"),
    ],
)
def test_what_is_no_component_is_refused_in_one_line(target: str, words: dict[str, list[str]], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        certify(target, **words)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_every_axis_has_checks_or_says_that_there_is_nothing() -> None:
    computing = {name for name in AXES if check_names(name)}
    assert set(AXES) - computing == {"model", "parametrisation", "strategy", "trainer", "logger", "callbacks"}
    certificate = certify("strategy=ddp")
    assert certificate.passed
    assert "nothing to certify" in certificate.text()


@pytest.mark.parametrize("target", ["optimizer=lion", "schedule=plateau", "task=copying"])
def test_what_trains_has_certificates_too(target: str) -> None:
    certificate = certify(target)
    assert certificate.passed, details(certificate)


def test_the_command_prints_and_exits_by_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", "faulty_components.Deaf", "--axis", "activation", "--check", "gradients", "settings"]
    assert run_command(words) == 1
    printed = capsys.readouterr().out
    assert "FAIL  gradients" in printed
    assert "FAILED: 1 of 2 checks" in printed
    assert run_command(["verify", "norm=rms", "--check", "settings", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["passed"] is True
    assert [check["name"] for check in shown["checks"]] == ["settings"]


def test_a_certificate_in_words() -> None:
    checks = [Check("a", "pass", "fine"), Check("bb", "fail", "0.1 off"), Check("c", "skipped", "no use")]
    certificate = Certificate("norm=rms", "norm", checks, 3.2)
    assert not certificate.passed
    assert certificate.verdict() == "FAILED: 1 of 2 checks, 1 skipped (3 s): bb"
    assert "FAIL  bb  0.1 off" in certificate.text()
