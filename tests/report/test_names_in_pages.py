"""Names in pages: escaped, breakable, and apart from the numbers beside them."""

from __future__ import annotations

from ablab.report.html.page import foldable, isolated


def test_a_name_breaks_between_its_overrides_and_where_it_is_very_long() -> None:
    assert foldable("a=1,b=[1,2]") == "a=1,<wbr>b=[1,2]"
    assert foldable("x" * 70) == "x" * 32 + "<wbr>" + "x" * 32 + "<wbr>" + "x" * 6
    assert foldable("<b>,c=&") == "&lt;b&gt;,<wbr>c=&amp;"
    assert foldable("") == ""


def test_a_name_from_right_to_left_leaves_the_numbers_in_their_order() -> None:
    assert isolated("\u05d0<: -0.1", "\u05d0<") == "<bdi>\u05d0&lt;</bdi>: -0.1"
    assert isolated("nothing & no one", "lsh") == "nothing &amp; no one"
    assert isolated("a < b", "") == "a &lt; b"
