"""Names in pages: escaped, breakable, and apart from the numbers beside them."""

from __future__ import annotations

import math
import re

from synthetic import runs_of, study

from ablab.analysis.verdicts import Verdict
from ablab.report.context import ReportContext
from ablab.report.html.page import _environment, foldable, isolated
from ablab.report.html.sections.effects import verdicts
from ablab.report.sentences import verdict_line


def test_a_name_breaks_between_its_overrides_and_where_it_is_very_long() -> None:
    assert foldable("a=1,b=[1,2]") == "a=1,<wbr>b=[1,2]"
    assert foldable("x" * 70) == "x" * 32 + "<wbr>" + "x" * 32 + "<wbr>" + "x" * 6
    assert foldable("<b>,c=&") == "&lt;b&gt;,<wbr>c=&amp;"
    assert foldable("") == ""


def test_a_name_from_right_to_left_leaves_the_numbers_in_their_order() -> None:
    assert isolated("\u05d0<: -0.1", "\u05d0<") == "<bdi>\u05d0&lt;</bdi>: -0.1"
    assert isolated("nothing & no one", "lsh") == "nothing &amp; no one"
    assert isolated("a < b", "") == "a &lt; b"
    assert isolated("90% CI: C wins", "C") == "90% CI: <bdi>C</bdi> wins"


def test_a_verdict_names_its_variant_also_where_its_sentence_has_the_letters() -> None:
    """ "C" is in "CI", "a" in "margin", "0" in every number."""
    base = [1.0, 1.1, 1.05, 1.02]
    near = [1.001, 1.099, 1.051, 1.021]
    found = ReportContext.of(
        runs_of(study({"base": base, "C": near, "a": near, "0": [*base[:3], math.nan]})), margin=0.1
    )
    said = {item.label: item.verdict for item in found.comparisons.items}
    assert said == {"C": Verdict.EQUIVALENT, "a": Verdict.EQUIVALENT, "0": Verdict.UNSTABLE}
    assert [re.split("  +", verdict_line(item))[1].split()[0] for item in found.comparisons.items] == ["C:", "a:", "0:"]
    shown = _environment({}).get_template("verdicts.html.j2").render(verdicts=verdicts(found))
    assert re.findall(r"</span> <bdi>(.*?)</bdi>: ", shown) == ["C", "a", "0"]
