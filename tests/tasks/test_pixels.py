"""Images as sequences of pixels: what is asked, what is known beforehand, and what is drawn from a trained model."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from ablab.config import RunConfig, conf_folder
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.study.supervision.supervisor import supervise
from ablab.tasks.images import Images, load_images
from ablab.tasks.pixel_objectives import Generate, grid, histogram_nats
from ablab.tasks.pixels import Pixels
from ablab.training.build import BuiltRun
from ablab.training.generation import load_run

Run = Callable[[RunConfig, Path], Record]
Config = Callable[..., RunConfig]


def pixels(**settings: Any) -> Pixels:
    return Pixels(**{"batch_size": 6, "seed": 0, **settings})


def served(task: Pixels, split: str) -> tuple[Tensor, Tensor]:
    loader = {"val": task.val_dataloader, "test": task.test_dataloader}[split]()
    inputs, targets, subsets = zip(*loader, strict=True)
    assert set(subsets) == {0}
    return torch.cat(inputs), torch.cat(targets)


def test_classify_asks_for_the_label_of_the_image() -> None:
    task = pixels()
    inputs, targets = served(task, "val")
    images = load_images(None, 0.1, 0.1)[0]["val"]
    assert inputs.view(-1, 8, 8).tolist() == images.pixels.tolist()
    assert targets.tolist() == [[label] for label in images.labels]
    assert (task.vocab_size, task.n_outputs, task.seq_len, task.max_length) == (17, 10, 64, 64)
    assert (task.pooled, task.causal, task.padding) == (True, False, None)
    example: Any = task.example()
    assert [part.shape for part in example] == [(1, 64), (1, 1)]


def test_generate_asks_for_each_pixel_and_shows_those_before_it() -> None:
    task = pixels(objective="generate")
    inputs, targets = served(task, "test")
    images = load_images(None, 0.1, 0.1)[0]["test"]
    assert targets.view(-1, 8, 8).tolist() == images.pixels.tolist()
    assert inputs[:, 1:].tolist() == targets[:, :-1].tolist()
    assert inputs[:, 0].unique().tolist() == [17]  # no level
    assert (task.vocab_size, task.n_outputs, task.seq_len) == (18, 17, 64)
    assert (task.pooled, task.causal) == (False, True)
    assert (task.primary.name, task.primary.direction) == ("val_loss", "min")


@pytest.mark.parametrize("levels", [2, 3, 16, 17])
def test_levels_are_of_equal_width_and_leave_the_splits_alone(levels: int) -> None:
    few, all_levels = (served(pixels(levels=given), "val")[0] for given in (levels, None))
    assert few.tolist() == [[pixel * levels // 17 for pixel in row] for row in all_levels.tolist()]
    assert few.unique().tolist() == list(range(levels))


def test_an_evaluation_on_some_is_spread_over_all() -> None:
    every, some = (served(pixels(eval_samples=count), "val")[0].tolist() for count in (None, 40))
    places = [every.index(row) for row in some]
    assert len(every) > 150
    assert len(places) == len(set(places)) == 40
    assert places == sorted(places)
    assert max(np.diff([0, *places, len(every)])) <= len(every) // 40 + 1


@pytest.mark.parametrize("objective", ["classify", "generate"])
def test_batches_are_the_same_for_workers_and_processes(objective: str) -> None:
    whole = [batch for _, batch in zip(range(5), pixels(objective=objective).train_dataloader(), strict=False)]
    for workers in (0, 2):
        shares = []
        for rank in (0, 1):
            task = pixels(objective=objective, workers=workers)
            of_two = {"rank": rank, "num_replicas": 2}
            task.trainer = SimpleNamespace(distributed_sampler_kwargs=of_two)  # type: ignore[assignment]
            shares.append([batch for _, batch in zip(range(5), task.train_dataloader(), strict=False)])
        for batch, one, two in zip(whole, *shares, strict=True):
            assert all(torch.equal(torch.cat([one[part], two[part]]), batch[part]) for part in (0, 1))


def test_an_epoch_is_every_training_image_once() -> None:
    task = pixels(batch_size=1)
    count = len(load_images(None, 0.1, 0.1)[0]["train"])
    batches = [inputs for _, (inputs, _) in zip(range(count), task.train_dataloader(), strict=False)]
    images = load_images(None, 0.1, 0.1)[0]["train"].pixels.reshape(count, -1)
    assert sorted(torch.cat(batches).tolist()) == sorted(images.tolist())


def test_what_is_known_of_classes() -> None:
    labels = load_images(None, 0.1, 0.1)[0]["val"].labels.tolist()
    chance = max(labels.count(label) for label in labels) / len(labels)
    assert pixels().oracle == {"chance": chance, "ceiling": 1.0}


def test_what_is_known_of_pixels_against_counting() -> None:
    """Each pixel of each image by itself, its chances by counting through the training images."""
    generator = np.random.default_rng(0)
    train, val = (
        Images(
            np.minimum(generator.poisson([[0.2, 1.0, 3.0]], (count, 1, 3)), 3).astype(np.uint8), np.zeros(count, int)
        )
        for count in (30, 20)
    )

    def chance_of(level: int, place: int, among: list[list[int]], added: float) -> float:
        return (sum(row[place] == level for row in among) + added) / (len(among) + 4 * added)

    rows = train.pixels[:, 0].tolist()

    def left_out(added: float) -> float:
        return sum(
            math.log(chance_of(row[place], place, rows[:index] + rows[index + 1 :], added))
            for index, row in enumerate(rows)
            for place in range(3)
        )

    best = max((1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001), key=left_out)
    nats = [-math.log(chance_of(row[p], p, rows, best)) for row in val.pixels[:, 0].tolist() for p in range(3)]
    assert histogram_nats(train, val, 4) == pytest.approx(np.mean(nats))


def test_known_values_are_in_order_and_uniform_logits_reach_the_first() -> None:
    task = pixels(objective="generate")
    known = task.oracle
    assert 0 < known["position_histogram"] < known["chance"] == math.log(17)
    _, targets = served(task, "val")
    metrics = task.metrics({k: float(v) for k, v in task.totals(torch.zeros(*targets.shape, 17), targets).items()})
    assert metrics["loss"] == pytest.approx(known["chance"], rel=1e-5)
    assert metrics["bits_per_dim"] == pytest.approx(math.log2(17), rel=1e-5)
    assert "exact" not in metrics


def chain(tokens: Tensor) -> Tensor:
    """Logits of 4 levels: first one of the two lowest, then one level up each time, from the top to the bottom."""
    logits = torch.full((*tokens.shape, 4), -math.inf)
    logits.scatter_(2, ((tokens + 1) % 4)[..., None], 0.0)
    logits[tokens == 4] = torch.tensor([0.0, 0.0, -math.inf, -math.inf])
    return logits


def test_samples_follow_the_models_chances() -> None:
    made = Generate(4).sample(chain, 2000, 6, torch.Generator().manual_seed(0))
    assert ((made[:, 1:] - made[:, :-1]) % 4 == 1).all()
    ones = int((made[:, 0] == 1).sum())
    assert made[:, 0].max() == 1
    assert abs(ones - 1000) < 4 * math.sqrt(2000 / 4)  # four standard deviations
    assert torch.equal(made, Generate(4).sample(chain, 2000, 6, torch.Generator().manual_seed(0)))
    assert not torch.equal(made, Generate(4).sample(chain, 2000, 6, torch.Generator().manual_seed(1)))


def test_a_grid_shows_every_image_in_its_place() -> None:
    images = torch.arange(5 * 2 * 3).view(5, 2, 3).double()
    picture = grid(images, 2)
    assert picture.shape == (3 * 2 + 2, 2 * 3 + 1)
    assert picture.dtype == torch.uint8
    for index in range(5):
        row, column = divmod(index, 2)
        assert picture[row * 3 : row * 3 + 2, column * 4 : column * 4 + 3].tolist() == images[index].tolist()
    assert picture[2].unique().tolist() == picture[:, 3].unique().tolist() == [96]


def test_pictures_of_large_images_are_fewer_and_greys_span_black_to_white() -> None:
    def flat(tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 2)

    small, large = (Images(np.ones((70, side, side), np.uint8), np.zeros(70, int)) for side in (8, 28))
    made = Generate(2).pictures(flat, small, 0)
    assert list(made) == ["generated", "real"]
    assert {picture.shape for picture in made.values()} == {(8 * 9 - 1, 8 * 9 - 1)}
    assert made["generated"].unique().tolist() == [0, 96, 255]
    assert made["real"].unique().tolist() == [96, 255]
    assert Generate(2).pictures(flat, large, 0)["generated"].shape == (2 * 29 - 1, 2 * 29 - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "draw"}, r"task\.objective must be one of classify, generate, got 'draw'"),
        ({"levels": 1}, r"task\.levels must be at least 2, or null for all, got 1"),
        ({"eval_samples": 0}, r"task\.eval_samples must be at least 1"),
        ({"val_fraction": 0.0}, r"task\.val_fraction=0\.0 and task\.test_fraction=0\.1 must be shares"),
        ({"batch_size": 0}, r"task\.batch_size must be at least 1"),
    ],
)
def test_numbers_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pixels(**settings)


def test_more_levels_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"task\.levels=18: these images have 17"):
        pixels(levels=18).setup()


def test_a_checkpoint_brings_its_size_and_knows_other_images() -> None:
    state = pixels(objective="generate", levels=4).state_dict()
    task = pixels(objective="generate", levels=4, path="nowhere")
    task.load_state_dict(state)
    assert (task.vocab_size, task.n_outputs, task.seq_len) == (5, 4, 64)
    other = pixels(levels=5)
    other.setup()
    with pytest.raises(UserError, match="the checkpoint's images have another size"):
        other.load_state_dict(state)


SMALL = ("task=pixels", "task.objective=generate", "task.levels=4", "task.eval_samples=10")


def test_a_run_leaves_its_pictures(tiny_config: Config, run: Run, tmp_path: Path) -> None:
    config = tiny_config(*SMALL)
    record = run(config, tmp_path / "one")
    assert (record.status, record.reason) == ("ok", None)
    assert record.pictures[:2] == ["pictures/generated.png", "pictures/real.png"]
    assert {"val_loss", "val_bits_per_dim", "test_loss"} <= set(record.metrics)
    assert record.evaluated["val"] == 10
    model, task = load_run(tmp_path / "one", "last")
    expected = task.pictures(model)
    assert task.vocab_size == model.vocab_size == 5
    for name in record.pictures[:2]:
        found = np.asarray(Image.open(tmp_path / "one" / name))
        assert found.tolist() == expected[Path(name).stem].tolist()
    assert run(tiny_config("task=pixels"), tmp_path / "two").pictures == ["pictures/attention_layer_0.png"]


@pytest.mark.slow
def test_tensorboard_shows_what_was_generated(tiny_config: Config, run: Run, tmp_path: Path) -> None:
    run(tiny_config("task=pixels", "task.objective=generate", "logger=tensorboard"), tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    for name in ("generated", "real"):
        (shown,) = events.Images(name)
        assert shown.step == 4
        with (
            Image.open(io.BytesIO(shown.encoded_image_string)) as picture,
            Image.open(tmp_path / "pictures" / f"{name}.png") as kept,
        ):
            assert np.array_equal(np.asarray(picture.convert("L")), np.asarray(kept))


def test_a_model_learns_what_is_shown(tiny_config: Config, run: Run, tmp_path: Path) -> None:
    """Few steps of a very small one: better than guessing, clearly."""
    record = run(
        tiny_config("task=pixels", "task.eval_samples=null", "task.batch_size=16", "optimizer.lr=1e-2", *steps(120)),
        tmp_path / "classify",
    )
    assert record.metrics["val_accuracy"] > 2 * record.oracle["chance"]
    record = run(tiny_config(*SMALL, "task.levels=2", "optimizer.lr=1e-2", *steps(40)), tmp_path / "generate")
    assert record.metrics["val_loss"] < 0.9 * record.oracle["chance"]


def steps(count: int) -> tuple[str, str]:
    return f"trainer.max_steps={count}", f"trainer.val_check_interval={count}"


UNEVEN = ("task.eval_samples=9", "task.eval_batch_size=7")


@pytest.mark.slow
@pytest.mark.usefixtures("_costs_are_known")
@pytest.mark.parametrize("objective", ["classify", "generate"])
def test_two_processes_learn_what_one_does(tiny_config: Config, run: Run, tmp_path: Path, objective: str) -> None:
    settings = ("task=pixels", f"task.objective={objective}", "optimizer=sgd", "task.workers=1", *UNEVEN)
    one = run(tiny_config(*settings), tmp_path / "one")
    two = supervise(tiny_config(*settings, "strategy=ddp"), tmp_path / "two", lambda step, steps, shown: None)
    assert (one.status, two.status) == ("ok", "ok"), (one.reason, two.reason)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-4)
    assert two.evaluated == one.evaluated
    assert two.pictures == one.pictures


ATTENTIONS = sorted({path.stem for path in (conf_folder() / "attention").glob("*.yaml")} - {"pattern"})


LAYERS = ("attention=pattern", f"attention.layers=[{','.join(ATTENTIONS)}]", f"model.n_layers={len(ATTENTIONS)}")


@pytest.mark.slow
def test_every_attention_reads_images(tiny_config: Config, run: Run, tmp_path: Path) -> None:
    """One layer of each in one model."""
    record = run(tiny_config("task=pixels", *LAYERS), tmp_path)
    assert (record.status, record.reason) == ("ok", None)
    assert all(map(math.isfinite, (record.metrics | record.mechanism).values()))


def test_every_attention_says_what_pixel_comes_next(tiny_config: Config) -> None:
    built = BuiltRun.of(tiny_config(*SMALL, *LAYERS))
    model = built.build_model()
    inputs, targets = next(iter(built.task.train_dataloader()))
    built.task.loss(model(inputs), targets).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    made = Generate(4).sample(model, 2, 3, torch.Generator().manual_seed(0))
    assert ((made >= 0) & (made < 4)).all()
