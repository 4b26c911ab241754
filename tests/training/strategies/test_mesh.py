"""Processes that hold shards of a model learn what one process learns with all of it."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ablab.config import RunConfig, fingerprint
from ablab.errors import UserError
from ablab.results.record import Record
from ablab.results.store import CHECKPOINT_FOLDER, CHECKSUM_FILE, LOG_FILE, METRICS_FILE
from ablab.study.planning.preflight import Preflight
from ablab.study.supervision.supervisor import supervise
from ablab.training.begin import prepare_folder
from ablab.training.checkpoint_folders import CheckpointFiles, consolidate, read_checkpoint, read_folder
from ablab.training.checkpoint_list import Origin
from ablab.training.generation import load_run
from ablab.training.strategies.mesh_options import FullySharded, Hybrid, TensorParallel

pytestmark = pytest.mark.usefixtures("_costs_are_known")

TinyConfig = Callable[..., RunConfig]
Run = Callable[[RunConfig, Path], Record]

PLACES = {
    "fsdp": ("strategy=fsdp", "trainer.devices=2"),
    "tensor": ("strategy=tensor", "trainer.devices=2"),
    "hybrid": ("strategy=hybrid", "trainer.devices=4"),
}
# Clipped at every step, an evaluation whose samples cannot be shared out equally, and weights that are tied.
LONG = (
    *("trainer.max_steps=8", "trainer.val_check_interval=4", "trainer.gradient_clip_val=0.5", "task.batch_size=8"),
    *("trainer.accumulate_grad_batches=2", "task.eval_tokens=null", "task.eval_batch_size=5"),
    *("model.n_layers=2", "model.n_heads=4"),
)
KINDS = {
    "sums": (  # of the whole gradient, of all units, of all samples
        *("optimizer=sgd", "activation=dynamic_sparse", "activation.target_sparsity=0.6", "layer_fusion=static"),
        "layer_fusion.gamma=true",
        *("schedule=gradient_variance", "schedule.per_group=true", "schedule.warmup_share=0.25", "position=learned"),
        "norm.placement=post",  # a norm before the head would take back the factor of layer fusion
    ),
    "heads": (
        *("optimizer=adamw", "attention=lsh", "attention.bucket_size=8", "model.n_kv_heads=2", "position=alibi"),
        *("attention.qk_norm=true", "attention.output_gate=head"),
        *("activation=relu_squared", "norm=rms", "model.tie_embeddings=false"),
        # Dropped alike by all processes of the same samples, as by one process, where these are all of them.
        "model.dropout=0.1",
    ),
}


def state_of(folder: Path) -> dict[str, Any]:
    """What the last checkpoint holds."""
    return read_checkpoint(folder / CHECKPOINT_FOLDER / "last.ckpt")


def curves_of(folder: Path) -> list[dict[str, str]]:
    """The rows of the learning curves."""
    with (folder / METRICS_FILE).open() as file:
        return list(csv.DictReader(file))


def curve(rows: list[dict[str, str]], name: str) -> list[float]:
    """One of the curves; a run of several processes logs more of them than a run of one."""
    return [float(row[name]) for row in rows if row[name]]


def assert_close(one: Any, other: Any, atol: float) -> None:
    """Equal in structure, and numbers within a tolerance."""
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(other, one, rtol=0, atol=atol)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_close(value, other[key], atol)
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_close(left, right, atol)
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-4, abs=atol, nan_ok=True)
    else:
        assert one == other


@pytest.mark.slow
def test_checkpoints_of_the_user_s_are_in_shards_beside_those_of_the_run(
    tiny_config: TinyConfig, tmp_path: Path
) -> None:
    """And nothing of theirs is taken for what the run goes on from, nor drives that out of the list."""
    mine = ("_target_=lightning.pytorch.callbacks.ModelCheckpoint", "save_last=true", "every_n_train_steps=1")
    weights = (mine[0], "save_weights_only=true")
    place = tmp_path / "checkpoints" / "mine"
    config = tiny_config(
        *(*PLACES["fsdp"], "strategy.checkpoint=sharded"),
        *(f"+callbacks.mine.{word}" for word in mine),
        *(f"+callbacks.weights.{word}" for word in weights),
    )
    done = supervise(config, tmp_path, lambda *_: None)
    assert done.status == "ok", done.reason
    listed = json.loads((tmp_path / CHECKPOINT_FOLDER / CHECKSUM_FILE).read_text(encoding="utf-8"))
    assert [each["step"] for each in listed] == [4, 2]
    written = sorted(path.name for path in place.iterdir())
    assert written == ["epoch=0-step=4.ckpt", "last.ckpt"]
    assert all((place / name).is_dir() for name in written)
    (alone,) = (tmp_path / "checkpoints" / "weights").iterdir()
    assert "optimizer_states" not in read_folder(alone)
    for folder in (alone, place / "last.ckpt"):
        assert_close(read_folder(folder)["state_dict"], state_of(tmp_path)["state_dict"], 0)


def test_shards_have_no_name_of_the_run_s_own(tmp_path: Path) -> None:
    files = CheckpointFiles(Origin(run="a", corpus="b"), tmp_path)
    for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
        with pytest.raises(UserError, match=f"{name}: is the run's own; give the callback"):
            files.save_shards({"global_step": 1}, tmp_path / name)
    with pytest.raises(UserError, match="its state_dict cannot be kept"):
        files.save_shards({"global_step": 1, "callbacks": {"theirs": {"state": object()}}}, tmp_path / "theirs.ckpt")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_processes_with_shards_learn_what_one_does_with_all(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, kind: str
) -> None:
    settings = (*LONG, *KINDS[kind])
    one = run(tiny_config(*settings), tmp_path / "one")
    assert one.status == "ok", one.reason
    first, curves = state_of(tmp_path / "one"), curves_of(tmp_path / "one")
    for place in ("fsdp", "hybrid") if kind == "sums" else ("tensor",):
        folder, how = tmp_path / place, PLACES[place]
        several = supervise(tiny_config(*settings, *how), folder, lambda *_: None)
        assert several.status == "ok", several.reason
        assert several.communication is not None
        assert several.communication.batch_shares == {"fsdp": 2, "tensor": 1, "hybrid": 2}[place]
        second = state_of(folder)
        # The checkpoint is one of a run of one process, whole, with the state of the optimizer and of the schedule.
        assert_close(first["state_dict"], second["state_dict"], 1e-5)
        assert_close(first["optimizer_states"], second["optimizer_states"], 1e-5)
        assert_close(first["lr_schedulers"], second["lr_schedulers"], 1e-5)
        for name in ("train_loss", "val_loss"):
            assert curve(curves_of(folder), name) == pytest.approx(curve(curves, name), abs=1e-5)
        assert several.metrics == pytest.approx(one.metrics, rel=1e-5)
        assert several.evaluated == one.evaluated
        assert several.parameter_groups == one.parameter_groups
        assert several.responses is not None
        assert one.responses is not None
        assert_close(one.responses, several.responses, 1e-4)
        assert several.pictures == one.pictures
        for name, value in one.mechanism.items():
            assert several.mechanism[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        if place == "tensor":
            figures = {name: several.mechanism[name] for name in one.mechanism}
            assert figures == pytest.approx(one.mechanism, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "form"), [("fsdp", "sharded"), ("tensor", "full")])
def test_a_run_that_failed_goes_on_as_if_it_had_not(
    tiny_config: TinyConfig, tmp_path: Path, place: str, form: str
) -> None:
    """With dropout where processes must agree and where they must not, and an optimizer that changes weights between
    training and evaluation."""
    config = failing(tiny_config, tmp_path, "model.dropout=0.1", "attention.dropout=0.1", *PLACES[place], form=form)
    assert supervise(config, tmp_path / "run", lambda *_: None).status == "failed"
    gone_on = supervise(config, tmp_path / "run", lambda *_: None)
    whole = supervise(config, tmp_path / "whole", lambda *_: None)  # it does not fail a second time
    assert gone_on.status == "ok", all_that_is_known(gone_on, tmp_path / "run")
    assert whole.status == "ok", all_that_is_known(whole, tmp_path / "whole")
    one, other = state_of(tmp_path / "whole"), state_of(tmp_path / "run")
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_close(one[name], other[name], 0)
    assert gone_on.metrics == whole.metrics
    best = consolidate(tmp_path / "run")
    assert best.name == ("best.full.ckpt" if form == "sharded" else "best.ckpt")
    model, _ = load_run(tmp_path / "run", "best", trust=True)
    assert_close(
        torch.load(best, weights_only=True)["state_dict"]["model.norm.weight"], model.state_dict()["norm.weight"], 0
    )


def all_that_is_known(record: Record, folder: Path) -> str:
    """How a run failed: its reason, where it stood, and what its processes printed last."""
    log = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
    return "\n".join([str(record.reason), str(record.traceback), *log.splitlines()[-40:]])


def failing(tiny_config: TinyConfig, folder: Path, *overrides: str, form: str | None = None) -> RunConfig:
    """The config of a run that fails once after its first checkpoint, whatever it is started with."""
    return tiny_config(
        *("trainer.max_steps=8", "trainer.val_check_interval=3", "model.n_heads=4"),
        *("optimizer=schedule_free", "schedule=gradient_variance", "schedule.warmup_share=0.25"),
        *("activation._target_=faults.RaisesOnce", "+activation.passes=5"),
        *((f"strategy.checkpoint={form}",) if form else ()),
        f"+activation.marker={folder / 'marker'}",
        *overrides,
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["full", "sharded"])
def test_other_processes_go_on_with_what_some_have_left(
    tiny_config: TinyConfig, run: Run, tmp_path: Path, form: str
) -> None:
    config = failing(tiny_config, tmp_path, *PLACES["hybrid"], form=form)
    left = tmp_path / "hybrid"
    assert supervise(config, left, lambda *_: None).status == "failed"
    one = failing(tiny_config, tmp_path)
    assert run(one, tmp_path / "one").status == "ok"
    first = state_of(tmp_path / "one")
    for place in ("single", "hybrid") if form == "full" else ("fsdp",):
        how = PLACES.get(place, ("strategy=single",))
        config = failing(tiny_config, tmp_path, *how)
        folder = tmp_path / f"with_{place}"
        hand_over(left, folder, config)
        record = run(config, folder) if place == "single" else supervise(config, folder, lambda *_: None)
        assert record.status == "ok", record.reason
        assert min(int(row["step"]) for row in curves_of(folder)) > 3  # it did not begin anew
        for name in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_close(first[name], state_of(folder)[name], 1e-5)


def hand_over(source: Path, target: Path, config: RunConfig) -> None:
    """Let a run of `config` find in `target` the last checkpoint of another, as if it were its own."""
    prepare_folder(config, target)
    shutil.copytree(source / CHECKPOINT_FOLDER, target / CHECKPOINT_FOLDER)
    sums = target / CHECKPOINT_FOLDER / CHECKSUM_FILE
    entries = json.loads(sums.read_text())
    sums.write_text(json.dumps([{**entry, "run": fingerprint(config)} for entry in entries]))


@pytest.mark.slow
def test_a_damaged_piece_is_noticed_and_the_checkpoint_before_it_used(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = failing(tiny_config, tmp_path, "+activation.passes=7", *PLACES["fsdp"], form="sharded")
    folder = tmp_path / "run"
    assert supervise(config, folder, lambda *_: None).status == "failed"
    checkpoints = folder / CHECKPOINT_FOLDER
    piece = next((checkpoints / "last.ckpt").glob("*.distcp"))
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.unlink()  # other names of the file are not to be damaged with it
    piece.write_bytes(content)
    record = supervise(config, folder, lambda *_: None)
    assert record.status == "ok", record.reason
    assert record.notes == [
        "checkpoints/last.ckpt is damaged (its checksum is not that of what was written): went on from previous.ckpt"
    ]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("strategy=fsdp", "trainer.devices=1"), r"strategy: needs at least 2 processes"),
        (("strategy=tensor", "trainer.devices=4"), r"strategy=tensor: model\.n_heads=2 cannot be shared out among 4"),
        (
            ("strategy=tensor", "model.n_heads=4", "model.n_kv_heads=1"),
            r"strategy=tensor: model\.n_kv_heads=1 cannot be shared out among 2 processes",
        ),
        (("strategy=tensor", "model.d_ff=33"), r"strategy=tensor: model\.d_ff=33 cannot be shared out"),
        (
            ("strategy=hybrid", "trainer.devices=2", "strategy.data_parallel_size=1"),
            r"strategy: needs both sizes to be at least 2.*strategy=tensor",
        ),
        (
            ("strategy=hybrid", "trainer.devices=2", "strategy.tensor_parallel_size=1"),
            r"strategy: needs both sizes to be at least 2.*strategy=fsdp",
        ),
        (
            ("strategy=hybrid", "trainer.devices=6", "strategy.data_parallel_size=2"),
            r"strategy: data_parallel_size=2 times tensor_parallel_size=2 must be the number of processes.*devices=6",
        ),
        (
            ("strategy=hybrid", "trainer.devices=4", "task.batch_size=3"),
            r"task\.batch_size=3 cannot be shared equally by 2 processes that see different samples, of 4",
        ),
        *(
            (
                ("strategy=fsdp", f"optimizer={optimizer}"),
                rf"strategy=fsdp does not work with optimizer={optimizer}: .*; change one",
            )
            for optimizer in ("muon", "normuon", "soap", "cautious_adamw")
        ),
        (
            ("strategy=tensor", "attention=nsa"),
            r"strategy=tensor does not work with attention=nsa: .*; change one",
        ),
        (
            ("strategy=tensor", "residual=value", "model.n_layers=2"),
            r"strategy=tensor does not work with residual=value",
        ),
        (("strategy=tensor", "attention=dynamic"), r"strategy=tensor does not work with attention=dynamic"),
        (("strategy=tensor", "attention=dsa"), r"strategy=tensor does not work with attention=dsa: its heads do not"),
        (("strategy=tensor", "attention=hca"), r"strategy=tensor does not work with attention=hca: "),
        (
            ("strategy=tensor", "attention=selected"),
            r"strategy=tensor does not work with attention=selected: its heads do not",
        ),
        (("strategy=tensor", "attention=mla"), r"strategy=tensor does not work with attention=mla"),
        (
            ("strategy=tensor", "attention.sinks=true"),
            r"strategy=tensor does not work with attention=full: attention.sinks=true",
        ),
        (("strategy=tensor", "activation=swiglu"), r"strategy=tensor does not work with activation=swiglu"),
        (("strategy=tensor", "activation=topk"), r"strategy=tensor does not work with activation=topk"),
        (
            ("strategy=tensor", "activation=dynamic_sparse", "activation.per_channel=true"),
            r"strategy=tensor does not work with activation=dynamic_sparse",
        ),
        (("strategy=fsdp", "attention=dynamic"), r"strategy=fsdp does not work with attention=dynamic: its penalty"),
        (("strategy=fsdp", "trainer.precision=16-mixed"), r"precision=16-mixed"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    tiny_config: TinyConfig, overrides: tuple[str, ...], line: str
) -> None:
    with pytest.raises(UserError, match=line) as caught:
        Preflight().check(tiny_config(*overrides))
    assert "\n" not in str(caught.value)


def test_tensor_parallel_processes_are_one_share_of_the_batch() -> None:
    strategy = Hybrid(processes=8, tensor_parallel_size=4)
    assert strategy.dp_size(8) == 2
    assert [strategy.dp_rank(rank) for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert FullySharded(processes=4).dp_size(4) == 4
    assert TensorParallel(processes=4).dp_size(4) == 1


@pytest.mark.slow
def test_a_hybrid_of_too_few_processes_is_told_of(tiny_config: TinyConfig, run: Run, tmp_path: Path) -> None:
    """It goes through, so that a sweep over strategies does, and says what it was."""
    one = run(tiny_config(), tmp_path / "one")
    two = supervise(tiny_config("strategy=hybrid", "trainer.devices=2"), tmp_path / "two", lambda *_: None)
    assert two.status == "ok", two.reason
    assert two.notes == ["nothing was hybrid: 2 processes leave one for the samples, as strategy=tensor does"]
    assert two.metrics == pytest.approx(one.metrics, rel=1e-4)
    assert Hybrid(processes=4).notes(10) == []
