"""Runs in a stack beside the same runs by themselves, in one process: what each leaves behind, however it ends."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ablab.analysis.comparison import compare
from ablab.config import RunConfig, fingerprint
from ablab.results.collect import tabulate
from ablab.results.record import Record
from ablab.results.store import CHECKPOINT_FOLDER, METRICS_FILE, remove
from ablab.training.begin import prepare_folder
from ablab.training.build import BuiltRun
from ablab.training.run import execute
from ablab.training.stacked import run as stacked_run
from ablab.training.stacked.model import StackedModel
from ablab.training.stacked.module import Seat
from ablab.training.stacked.run import Member, execute_stack

TinyConfig = Callable[..., RunConfig]
SEEDS = 3
OF_TIME = (
    *("wall_time_s", "train_time_s", "processor_time_s", "evaluation_time_s", "tokens_per_second"),
    "peak_memory_bytes",
)


@dataclass
class Both:
    """The same runs twice."""

    configs: list[RunConfig]
    folder: Path
    alone: list[Record]
    stacked: dict[int, Record]


@pytest.fixture(scope="module")
def configs(tiny_config: TinyConfig) -> list[RunConfig]:
    return [tiny_config(f"seed={seed}", "model.n_layers=2") for seed in range(SEEDS)]


@pytest.fixture(scope="module")
def both(configs: list[RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("both")
    for place, config in enumerate(configs):
        prepare_folder(config, folder / "alone" / str(place))
    alone = [execute(config, folder / "alone" / str(place)) for place, config in enumerate(configs)]
    return Both(configs, folder, alone, stack(configs, folder / "stacked"))


def stack(configs: list[RunConfig], folder: Path, places: tuple[int, ...] = tuple(range(SEEDS))) -> dict[int, Record]:
    for place in places:
        prepare_folder(configs[place], folder / str(place))
    members = [Member(place=place, config=configs[place], folder=folder / str(place)) for place in places]
    return execute_stack(members, SEEDS)


def rows(folder: Path) -> Iterator[Mapping[str, str]]:
    with (folder / METRICS_FILE).open(encoding="utf-8") as file:
        yield from csv.DictReader(file)


def losses(folder: Path) -> list[float]:
    return [float(row["train_loss"]) for row in rows(folder) if row["train_loss"]]


def checkpoint(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / CHECKPOINT_FOLDER / "last.ckpt", weights_only=True)
    return found


def same_weights(one: Path, other: Path) -> bool:
    first, second = (checkpoint(each)["state_dict"] for each in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_every_seed_has_the_curve_of_its_run_alone(both: Both) -> None:
    for place in range(SEEDS):
        alone, stacked = (losses(both.folder / way / str(place)) for way in ("alone", "stacked"))
        assert len(stacked) == 4
        assert stacked[0] == pytest.approx(alone[0], abs=1e-6)
        assert stacked == pytest.approx(alone, abs=1e-5)
    assert len({losses(both.folder / "stacked" / str(place))[0] for place in range(SEEDS)}) == SEEDS


def test_every_seed_has_the_record_of_its_run_alone(both: Both) -> None:
    for place, alone in enumerate(both.alone):
        stacked = both.stacked[place]
        assert (stacked.status, stacked.fingerprint) == ("ok", fingerprint(both.configs[place]))
        assert stacked.metrics == pytest.approx(alone.metrics, rel=1e-5)
        assert stacked.mechanism == pytest.approx(alone.mechanism, rel=1e-3, abs=1e-6)
        assert stacked.responses["function/logits"] == alone.responses["function/logits"]
        counted = [{k: v for k, v in vars(r.cost).items() if k not in OF_TIME} for r in (stacked, alone)]
        assert counted[0] | {"peak_memory_method": ""} == counted[1] | {"peak_memory_method": ""}


def test_every_seed_has_the_files_of_its_run_alone(both: Both) -> None:
    for place in range(SEEDS):
        found = [
            {each.relative_to(folder).as_posix() for each in folder.rglob("*") if "tfevents" not in each.name}
            for folder in (both.folder / way / str(place) for way in ("alone", "stacked"))
        ]
        assert found[0] == found[1]
        alone, stacked = (checkpoint(both.folder / way / str(place)) for way in ("alone", "stacked"))
        assert alone.keys() == stacked.keys()
        assert alone["callbacks"].keys() == stacked["callbacks"].keys()
        assert alone["loops"] == stacked["loops"]


def test_a_record_says_that_its_times_are_shared(both: Both) -> None:
    for record in both.stacked.values():
        assert record.stacked == SEEDS
        assert record.cost.tokens_per_second is record.cost.train_time_s is record.cost.evaluation_time_s is None
        assert record.cost.wall_time_s is not None
        assert "shared by 3 seeds" in str(record.cost.peak_memory_method)
    assert all(record.stacked is None for record in both.alone)


def test_a_seed_that_diverges_changes_nothing_of_the_others(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BuiltRun.build_model

    def broken(self: BuiltRun) -> Any:
        model = whole(self)
        if self.config.seed == 1:
            model.head.weight.data.fill_(torch.inf)
        return model

    monkeypatch.setattr(BuiltRun, "build_model", broken)
    found = stack(both.configs, tmp_path)
    assert [found[place].status for place in range(SEEDS)] == ["ok", "diverged", "ok"]
    for place in (0, 2):
        assert found[place].metrics == both.stacked[place].metrics
        assert same_weights(tmp_path / str(place), both.folder / "stacked" / str(place))


def test_a_stack_that_was_cut_off_goes_on_to_the_last_bit(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    whole = StackedModel.__call__

    def cut_off(self: StackedModel, *args: Any) -> Any:
        passes.append(0)
        if len(passes) == 4:
            raise MemoryError("no room for the fourth")
        return whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(StackedModel, "__call__", cut_off)
        found = stack(both.configs, tmp_path)
    assert {(each.status, each.cause) for each in found.values()} == {("failed", "memory")}
    remove(tmp_path / "1" / CHECKPOINT_FOLDER)  # as if it had not been written when the others' were
    found = stack(both.configs, tmp_path)
    for place in range(SEEDS):
        assert found[place].metrics == both.stacked[place].metrics
        assert same_weights(tmp_path / str(place), both.folder / "stacked" / str(place))
        assert losses(tmp_path / str(place)) == losses(both.folder / "stacked" / str(place))


def test_places_of_runs_that_have_ended_change_nothing(both: Both, tmp_path: Path) -> None:
    found = stack(both.configs, tmp_path, places=(0, 2))
    assert found.keys() == {0, 2}
    for place in found:
        assert same_weights(tmp_path / str(place), both.folder / "stacked" / str(place))


def test_a_run_can_go_on_alone_from_what_it_left_in_a_stack(both: Both, tmp_path: Path) -> None:
    longer = both.configs[0]
    source = both.folder / "stacked" / "0"
    found = checkpoint(source)
    model = BuiltRun.of(longer).build_model()
    weights = {name.removeprefix("model."): each for name, each in found["state_dict"].items()}
    model.load_state_dict(weights)
    assert all(isinstance(each, Tensor) and each.untyped_storage().nbytes() == each.nbytes for each in weights.values())


def test_copies_of_weights_and_batches_that_are_added_up_are_those_of_the_run_alone(
    tiny_config: TinyConfig, run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    """And a schedule that follows each seed's own gradients."""
    words = ["callbacks=ema", "trainer.accumulate_grad_batches=2", "schedule=gradient_variance", "trainer.max_steps=2"]
    words += ["optimizer=sgd", "trainer.gradient_clip_val=100"]  # by which the size of a gradient counts
    configs = [tiny_config(f"seed={seed}", *words) for seed in range(SEEDS)]
    stacked = stack(configs, tmp_path / "stacked", places=(0, 2))
    for place in (0, 2):
        alone = run(configs[place], tmp_path / str(place))
        assert (stacked[place].status, alone.status) == ("ok", "ok")
        assert stacked[place].metrics == pytest.approx(alone.metrics, rel=1e-5)
        assert stacked[place].responses["schedule"] == pytest.approx(alone.responses["schedule"], rel=1e-4)
        assert losses(tmp_path / "stacked" / str(place)) == pytest.approx(losses(tmp_path / str(place)), abs=1e-5)


@pytest.mark.slow
def test_verdicts_are_those_of_runs_alone(
    both: Both, tiny_config: TinyConfig, run: Callable[[RunConfig, Path], Record], tmp_path: Path
) -> None:
    found = {"alone": [*both.alone], "stacked": [*both.stacked.values()]}
    for number, word in enumerate(("optimizer.lr=0.01", "model.n_heads=1")):
        configs = [tiny_config(f"seed={seed}", "model.n_layers=2", word) for seed in range(SEEDS)]
        found["alone"] += [run(each, tmp_path / str(number) / f"alone{each.seed}") for each in configs]
        found["stacked"] += stack(configs, tmp_path / str(number)).values()
    alone, stacked = (
        compare(
            tabulate([(Path(str(index)), each) for index, each in enumerate(records)]),
            baseline="model.n_heads=2,optimizer.lr=0.001",
        ).items
        for records in found.values()
    )
    assert sorted(item.verdict for item in alone) == ["BETTER", "UNRESOLVED"]
    assert [item.verdict for item in stacked] == [item.verdict for item in alone]
    assert [item.effect for item in stacked] == pytest.approx([item.effect for item in alone], abs=1e-5)


def test_asked_to_stop_every_seed_saves_itself(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(StackedModel):
        def __call__(self, *args: Any) -> Any:
            stops[0].made = True
            return super().__call__(*args)

    stops: list[Any] = []
    kept = Seat

    def seat(**settings: Any) -> Any:
        stops.append(settings["stop"])
        return kept(**settings)

    with monkeypatch.context() as patch:
        patch.setattr(stacked_run, "StackedModel", Asked)
        patch.setattr(stacked_run, "Seat", seat)
        found = stack(both.configs, tmp_path)
    assert {each.status for each in found.values()} == {"interrupted"}
    assert {checkpoint(tmp_path / str(place))["global_step"] for place in range(SEEDS)} == {1}
    again = stack(both.configs, tmp_path)
    assert [again[place].metrics for place in range(SEEDS)] == [both.stacked[place].metrics for place in range(SEEDS)]
