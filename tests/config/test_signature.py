"""An option's keys and values are held against the constructor that they are for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NotRequired, TypedDict, Unpack

import pytest
import torch

from ablab.config import targets
from ablab.config.signature import check_signature
from ablab.errors import UserError

HERE = f"{__name__}."


class Widget:
    def __init__(
        self,
        spec: object,
        *,
        size: int,
        rate: float = 0.5,
        loud: bool = False,
        kind: Literal["round", "square"] = "round",
        pair: tuple[float, float] = (0.0, 1.0),
        limit: int | None = None,
        milestones: list[int] | None = None,
    ) -> None: ...


class Gadget(Widget):
    def __init__(self, *, colour: str, **settings: Any) -> None:
        super().__init__(None, **settings)


class PartSettings(TypedDict):
    depth: int
    shade: NotRequired[str]


class Case:
    def __init__(self, part: object, *, width: int = 1) -> None: ...


class Housing(Case):
    """Hands its keywords to a part of its own, and not to its base."""

    def __init__(self, *, colour: str, **settings: Unpack[PartSettings]) -> None:
        super().__init__(settings)


class ThirdParty(torch.optim.Optimizer):
    def __init__(self, params: Any, lr: float = 1.0, **others: Any) -> None:
        super().__init__(params, {"lr": lr}, **others)


def described(*, size: Annotated[int, ["in metres"]]) -> None: ...


def named(*, size: str) -> None: ...


def open_ended(first: int, **others: Any) -> None: ...


def check(supplied: tuple[str, ...] = ("spec",), target: str = "Widget", **node: Any) -> None:
    check_signature("widget", {"_target_": HERE + target, **node}, supplied)


@pytest.mark.parametrize(
    "node",
    [
        {"size": 3},
        {"size": 3, "rate": 1, "limit": None, "kind": "square", "loud": True},
        {"size": 3, "rate": 1e-3, "pair": [0.9, 0.95], "limit": 7},
        {"size": 3, "_partial_": True, "_convert_": "all"},
    ],
)
def test_what_fits_passes(node: dict[str, Any]) -> None:
    check(**node)


@pytest.mark.parametrize(
    ("node", "line"),
    [
        (
            {"size": 3, "sizes": 4},
            r"^widget\.sizes: no such setting of widget; did you mean 'size'\? \(there are: kind, ",
        ),
        ({"size": 3, "spec": 4}, r"^widget\.spec: no such setting of widget"),
        ({}, r"^widget\.size must be given: add widget\.size=\.\.\. to the command$"),
        ({"size": "big"}, r"^widget\.size='big': must be a whole number$"),
        ({"size": 1.5}, r"^widget\.size=1\.5: must be a whole number$"),
        ({"size": True}, r"^widget\.size=true: must be a whole number$"),
        ({"size": None}, r"^widget\.size=null: must be a whole number$"),
        ({"size": 3, "rate": "fast"}, r"^widget\.rate='fast': must be a number$"),
        ({"size": 3, "loud": 1}, r"^widget\.loud=1: must be true or false$"),
        ({"size": 3, "kind": "oval"}, r"^widget\.kind='oval': must be one of round, square$"),
        ({"size": 3, "pair": [1.0]}, r"^widget\.pair=\[1\.0\]: must be a list of a number, a number$"),
        (
            {"size": [3, 4]},
            r"^widget\.size=\[3, 4\]: must be a whole number; -m sweeps over .* written widget\.size=A,B",
        ),
        ({"size": 3, "milestones": 9}, r"^widget\.milestones=9: must be a list .*; write widget\.milestones=\[9\]$"),
        ({"size": 3, "milestones": "x"}, r"^widget\.milestones='x': must be a list of a whole number or null$"),
        ({"size": 3, "limit": "x"}, r"^widget\.limit='x': must be a whole number or null$"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(node: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        check(**node)


@pytest.mark.parametrize(("target", "right", "wrong"), [("described", 3, "big"), ("named", "big", 3)])
def test_types_are_told_apart_also_where_one_is_the_key_of_nothing(target: str, right: object, wrong: object) -> None:
    for _ in range(2):
        check_signature("widget", {"_target_": HERE + target, "size": right})
        with pytest.raises(UserError, match=r"widget\.size=.*: must be a "):
            check_signature("widget", {"_target_": HERE + target, "size": wrong})


def test_a_factory_is_called_with_its_first_argument() -> None:
    check(supplied=(), size=3, _partial_=True)
    with pytest.raises(UserError, match=r"widget\.spec must be given"):
        check(supplied=(), size=3)


def test_a_target_that_takes_anything_is_not_asked_about_names() -> None:
    check(supplied=(), target="open_ended", first=1, whatever=2)
    with pytest.raises(UserError, match=r"widget\.first='x': must be a whole number"):
        check(supplied=(), target="open_ended", first="x", whatever=2)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (f"{HERE}Nothing", f"{HERE.rstrip('.')} has no Nothing"),
        (f"{HERE}Wigdet", f"{HERE.rstrip('.')} has no Wigdet; did you mean Widget?"),
        (f"{HERE}Widget.nothing", f"{HERE}Widget.nothing cannot be imported (.*)"),
        ("torch.optim.AdamV", "torch.optim has no AdamV; did you mean Adam.*?"),
        ("ablab.training.optimisers.Lion", "ablab.training has no optimisers; did you mean optimizers?"),
        ("torhc.optim.Adam", "torhc.optim.Adam: there is no module torhc; did you mean torch?"),
        ("qqqq.zzzz", "qqqq.zzzz: there is no module qqqq"),
    ],
)
def test_a_target_that_is_not_there_is_named_with_the_nearest(target: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        check_signature("widget", {"_target_": target})
    pattern = re.escape(f"widget._target_: {line}").replace(r"\.\*", ".*")
    assert re.fullmatch(pattern, str(caught.value))


def test_only_a_package_that_ablab_offers_is_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"torch", "aim", "mlflow", "wandb"} <= targets._offered()

    def missing(target: str) -> object:
        raise ModuleNotFoundError("No module named 'aim'", name="aim")

    monkeypatch.setattr(targets, "get_object", missing)
    monkeypatch.setattr(targets, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^widget\._target_: aim\.x needs aim: pip install aim$"):
        check_signature("widget", {"_target_": "aim.x"})


@pytest.mark.parametrize("target", ["nope", 3, None, ["a.b"], ""])
def test_a_target_is_a_dotted_name(target: object) -> None:
    with pytest.raises(UserError, match=r"^widget\._target_=.*: must be the dotted name of a class or function$"):
        check_signature("widget", {"_target_": target})


def test_a_target_is_something_to_call() -> None:
    with pytest.raises(UserError, match=r"torch\.nn is neither a class nor a function"):
        check_signature("widget", {"_target_": "torch.nn"})


def test_what_a_base_of_another_package_asks_for_may_be_given_by_the_class() -> None:
    check_signature("optimizer", {"_target_": f"{HERE}ThirdParty", "lr": 0.1}, supplied=["params"])


def test_keywords_that_are_handed_on_are_those_of_the_base() -> None:
    check(target="Gadget", colour="red", size=3)
    with pytest.raises(UserError, match=r"widget\.sise: no such setting of widget; did you mean 'size'"):
        check(target="Gadget", colour="red", sise=3)
    with pytest.raises(UserError, match=r"widget\.size must be given"):
        check(target="Gadget", colour="red")
    with pytest.raises(UserError, match=r"widget\.size='3': must be a whole number"):
        check(target="Gadget", colour="red", size="3")


def test_keywords_that_name_their_settings_are_those_and_not_the_bases() -> None:
    check(target="Housing", colour="red", depth=3, shade="dark")
    with pytest.raises(UserError, match=r"widget\.width: no such setting of widget"):
        check(target="Housing", colour="red", depth=3, width=2)
    with pytest.raises(UserError, match=r"widget\.depht: no such setting of widget; did you mean 'depth'"):
        check(target="Housing", colour="red", depht=3)
    with pytest.raises(UserError, match=r"widget\.shade=4: must be a text"):
        check(target="Housing", colour="red", depth=3, shade=4)
    with pytest.raises(UserError, match=r"widget\.depth must be given"):
        check(target="Housing", colour="red")
