"""Listed variants: as they are written, completed by the first, each under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ablab.errors import UserError
from ablab.study.designs import Explicit, Factor, Steps

LISTED: dict[str, dict[str, object]] = {
    "base": {"attention": "full", "model.d_model": 64},
    "sparse": {"attention": "lsh"},
    "wide": {"model.d_model": 128, "model.d_ff": None},
}
BASE = {"attention": "full", "model.d_model": "64"}
SPARSE = {"attention": "lsh", "model.d_model": "64"}
WIDE = {"attention": "full", "model.d_model": "128", "model.d_ff": "null"}


def test_what_a_variant_lacks_it_has_of_the_first_or_not_at_all() -> None:
    designed = Explicit(variants=LISTED).choose([])
    assert designed.variants == [BASE, SPARSE, WIDE]
    assert (designed.names, designed.excluded) == (["base", "sparse", "wide"], [])
    assert Explicit(variants={"as it is": {}, "other": {"a": True}}).choose([]).variants == [{}, {"a": "true"}]


def test_a_declared_baseline_moves_its_variant_in_front_and_changes_none() -> None:
    designed = Explicit(variants=LISTED).choose([], {}, {"model.d_model": "128"})
    assert (designed.variants, designed.names) == ([WIDE, BASE, SPARSE], ["wide", "base", "sparse"])
    nested: dict[str, dict[str, object]] = {"plain": {}, "both": {"a": True, "b": 2}, "one": {"a": True}}
    led = Explicit(variants=nested).choose([], {}, {"a": "True"})  # as `comparison.baseline=one` says it
    assert led.names == ["one", "plain", "both"]
    fixed = {"model.d_ff": "32", "seed": "0"}
    assert Explicit(variants=LISTED).choose([], fixed, {"model.d_ff": "32"}).names == ["base", "sparse", "wide"]
    assert Explicit(variants=LISTED).choose([], fixed, {"attention": "lsh", "seed": "0"}).names[0] == "sparse"


def test_steps_are_kept_and_an_option_takes_back_what_was_set_of_the_former_one() -> None:
    steps: dict[str, dict[str, object]] = {
        "base": {},
        "normed": {"attention.qk_norm": True},
        "narrow": {"model.d_model": 64},
        "latent": {"attention": "mla", "attention.kv_rank": 8},
        "wide": {"attention.kv_rank": 16},
    }
    designed = Steps(variants=steps).choose([])
    normed, narrow = {"attention.qk_norm": "true"}, {"model.d_model": "64"}
    latent = {**narrow, "attention": "mla", "attention.kv_rank": "8"}
    wide = {**latent, "attention.kv_rank": "16"}
    assert designed.names == list(steps)
    assert designed.variants == [{}, normed, {**normed, **narrow}, latent, wide]
    with pytest.raises(UserError, match=r"wide and same are the same"):
        Steps(variants={**steps, "same": {"model.d_model": 64}}).choose([])
    with pytest.raises(UserError, match=r"^design=steps lists its variants itself: do not sweep norm, .*$"):
        Steps(variants=steps).choose([Factor.of("norm", ["layer", "rms"])])


def test_rules_leave_out_variants_with_their_names() -> None:
    designed = Explicit(variants=LISTED, exclude=[{"attention": "lsh", "seed": 0}]).choose([], {"seed": "0"})
    assert (designed.variants, designed.names) == ([BASE, WIDE], ["base", "wide"])
    assert designed.excluded == [(SPARSE, "attention=lsh, seed=0")]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"variants": None}, r"design\.variants: list them by name, as in design\.variants=\{base: .*\}"),
        ({"variants": {}}, r"design\.variants: list them by name, .*"),
        ({"variants": {"": {}}}, r"design\.variants: each variant needs a name of its own, and '' is none"),
        ({"variants": {1: {"a": 1}, "1": {"a": 2}}}, r"design\.variants: each variant needs a name .* '1' is none"),
        ({"variants": {"base": {}, "pilot": {"a": 1}}}, r"design\.variants: folders called pilot hold trials, .*"),
        ({"variants": {"lsh": "attention=lsh"}}, r"design\.variants: lsh must hold overrides, as in \{base: .*\}"),
        (
            {"variants": {**LISTED, "same": {"model.d_model": 64}}},
            r"design\.variants: base and same are the same \(attention=full, model\.d_model=64\); drop one",
        ),
        ({"variants": {"a": {}, "b": {"seed": 0}}}, r"design\.variants: a and b are the same \(seed=0\); drop one"),
        ({"variants": LISTED, "zip": [["a", "b"]]}, r"design\.zip: design=explicit varies no keys .*"),
        ({"variants": LISTED, "exclude": [{"attention": "lhs"}]}, r"design\.exclude: no variant has attention=lhs.*"),
        ({"variants": LISTED, "exclude": [{"position": "rope"}]}, r"design\.exclude: position is neither .*"),
        (
            {"variants": LISTED, "exclude": [{"attention": "full"}]},
            r"design\.exclude: attention=full leaves out the reference \(attention=full, model\.d_model=64\), .*",
        ),
    ],
)
def test_lists_that_cannot_be_run(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=rf"^{line}$"):
        Explicit(**settings).choose([], {"seed": "0"})


@pytest.mark.parametrize(
    ("baseline", "line"),
    [
        ({"atention": "lsh"}, r"baseline: atention is neither varied nor fixed; did you mean 'attention'\? .*"),
        ({"attention": "lhs"}, r"baseline: no variant has attention=lhs; did you mean 'lsh'\? .*"),
        ({"seed": "1"}, r"baseline: seed=1, but every variant has seed=0"),
        (
            {"attention": "lsh", "model.d_model": "128"},
            r"baseline: no variant of design\.variants has attention=lsh, model\.d_model=128",
        ),
    ],
)
def test_a_baseline_that_is_not_listed(baseline: dict[str, str], line: str) -> None:
    with pytest.raises(UserError, match=rf"^{line}$"):
        Explicit(variants=LISTED).choose([], {"seed": "0"}, baseline)


def test_swept_values_are_refused(make_factors: Callable[..., list[Factor]]) -> None:
    line = r"^design=explicit lists its variants itself: do not sweep a, b, or take another design$"
    with pytest.raises(UserError, match=line):
        Explicit(variants=LISTED).choose(make_factors(2, 2))
