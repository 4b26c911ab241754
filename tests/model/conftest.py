"""The options as the menu in conf/ lists them, and a small model made of any of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from ablab.config.axes import called_by
from ablab.model.mechanism import MechanismProbe
from ablab.model.multimodal import FeatureEncoder, MultimodalTransformer, TextEncoder
from ablab.model.spec import LayerSpec
from ablab.model.transformer import Transformer

CONF = Path(__file__).parents[2] / "conf"
TEXT = [axis.name for axis in called_by("model")]
AXES = [axis.name for axis in called_by("model", "multimodal")]
LENGTHS = {"image": 4, "audio": 3, "text": 5}  # tokens of each modality in `build_modal`


def _defaults() -> dict[str, str]:
    entries = OmegaConf.load(CONF / "config.yaml").defaults
    return {axis: option for entry in entries if not isinstance(entry, str) for axis, option in entry.items()}


DEFAULTS = _defaults()


def options(axis: str) -> list[str]:
    return sorted(path.stem for path in (CONF / axis).glob("*.yaml"))


@cache
def _read(axis: str, option: str) -> Any:
    whole = OmegaConf.create({"trainer": {"max_steps": 100}, axis: OmegaConf.load(CONF / axis / f"{option}.yaml")})
    resolved: Any = OmegaConf.to_container(whole, resolve=True)
    return OmegaConf.create(resolved[axis])


@cache
def _unchanged(axis: str, option: str) -> Any:
    return instantiate(_read(axis, option))


def load(axis: str, option: str, **changes: Any) -> Any:
    """The option's factory, read once: reading YAML takes longer than making a small model."""
    return instantiate(OmegaConf.merge(_read(axis, option), changes)) if changes else _unchanged(axis, option)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """An argument `attention_option` runs the test over every option of that axis; `any_option` over all of all axes.

    With several axes each option meets each option of any other one, not each combination of them.
    """
    if "any_option" in metafunc.fixturenames:
        metafunc.parametrize("any_option", [(axis, option) for axis in TEXT for option in options(axis)])
    asked = [axis for axis in AXES if f"{axis}_option" in metafunc.fixturenames]
    if asked:
        metafunc.parametrize([f"{axis}_option" for axis in asked], pairs([options(axis) for axis in asked]))


def pairs(menus: list[list[str]]) -> list[tuple[str, ...]]:
    """Rows in which each two entries of different menus meet: all of the longest two menus, and a third in turn."""
    assert len(menus) <= 3
    order = sorted(range(len(menus)), key=lambda place: -len(menus[place]))
    rows = []
    for turn in itertools.product(*(range(len(menus[place])) for place in order[:2])):
        places = [*turn, sum(turn)]
        row = {place: menus[place][index % len(menus[place])] for place, index in zip(order, places, strict=False)}
        rows.append(tuple(row[place] for place in range(len(menus))))
    return rows


def _multimodal(transformer: partial[Transformer], **settings: Any) -> Transformer:
    return MultimodalTransformer(transformer, **settings)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., LayerSpec]:
    def make(**changes: Any) -> LayerSpec:
        sizes = {"d_model": 16, "n_heads": 2, "d_ff": 32, "layer_index": 0, "n_layers": 2, "max_length": 64}
        return LayerSpec(**(sizes | {"causal": True, "seed": 0} | changes))

    return make


@pytest.fixture(scope="session")
def build() -> Callable[..., Transformer]:
    """build(attention="lsh", n_layers=1, ...): components by name, from their YAML; a factory is taken as it is."""

    def make(**changes: Any) -> Transformer:
        parts: dict[str, Any] = {axis: DEFAULTS[axis] for axis in TEXT}
        sizes = {"vocab_size": 11, "max_length": 64, "seed": 0, "d_model": 16, "n_heads": 2, "n_layers": 2}
        arguments = parts | sizes | changes
        # Short windows and buckets, so that they bite at the lengths of the tests.
        short = {"windowed": {"window": 5}, "lsh": {"bucket_size": 4}}
        for axis in TEXT:
            if isinstance(arguments[axis], str):
                arguments[axis] = load(axis, arguments[axis], **short.get(arguments[axis], {}))
        wrap = arguments.pop("wrap", lambda transformer: transformer())
        made: Transformer = wrap(partial(Transformer, **arguments))
        return made

    return make


@pytest.fixture(scope="session")
def build_modal(build: Callable[..., Transformer]) -> Callable[..., Transformer]:
    """build_modal(modal_fusion="late", ...): a model of an image, a sound and a text, with seven answers."""
    encoders = {
        "image": partial(FeatureEncoder, length=LENGTHS["image"], features=6),
        "audio": partial(FeatureEncoder, length=LENGTHS["audio"], features=10),
        "text": partial(TextEncoder, length=LENGTHS["text"], vocab_size=9),
    }

    def make(modal_fusion: Any = "early", **changes: Any) -> Transformer:
        fusion = load("modal_fusion", modal_fusion) if isinstance(modal_fusion, str) else modal_fusion
        several = {"causal": False, "pooled": True, "n_outputs": 7}
        return build(**several | changes, wrap=partial(_multimodal, encoders=encoders, modal_fusion=fusion))

    return make


@pytest.fixture(scope="session")
def modal_inputs() -> Callable[..., dict[str, Tensor]]:
    """modal_inputs(3): so many samples for `build_modal`, the last word of each missing."""

    def make(count: int = 2, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        padding = torch.zeros(count, sum(LENGTHS.values()), dtype=torch.bool)
        padding[:, -1] = True
        return {
            "image": torch.randn(count, LENGTHS["image"], 6, generator=generator),
            "audio": torch.randn(count, LENGTHS["audio"], 10, generator=generator),
            "text": torch.randint(0, 9, (count, LENGTHS["text"]), generator=generator),
            "padding": padding,
        }

    return make


@pytest.fixture(scope="session")
def load_option() -> Callable[..., Any]:
    return load


@pytest.fixture(scope="session")
def menu() -> dict[str, list[str]]:
    return {axis: options(axis) for axis in AXES}


@pytest.fixture(scope="session")
def tokens() -> Callable[..., Tensor]:
    """tokens(batch, length, seed=0)"""

    def make(batch: int, length: int, seed: int = 0) -> Tensor:
        return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def watch() -> Callable[..., dict[str, float]]:
    """watch(model, *batches): the figures after these batches."""

    def run(model: Transformer, *batches: Tensor) -> dict[str, float]:
        probe = MechanismProbe(model)
        probe.attach()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        probe.detach()
        return probe.metrics()

    return run


@pytest.fixture(scope="session")
def uniform() -> Callable[[Any], Any]:
    """No queries: full attention weighs all keys alike, so that shares of mass are shares of keys."""

    def make(model: Transformer) -> Transformer:
        block: Any
        for block in model.blocks:
            nn.init.zeros_(block.attention.query.weight)
        return model

    return make


@pytest.fixture(scope="session")
def silence() -> Callable[[Transformer, int, list[int]], None]:
    """silence(model, layer, units): these hidden units are always zero after ReLU, all others of the layer never."""

    def make(model: Transformer, layer: int, units: list[int]) -> None:
        block: Any = model.blocks[layer]
        up = block.feed_forward.up
        nn.init.zeros_(up.weight)
        nn.init.ones_(up.bias)
        with torch.no_grad():
            up.bias[units] = -1

    return make
