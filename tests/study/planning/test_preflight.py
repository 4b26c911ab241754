"""What can be known to be wrong with a run is known before it starts, and said in one line that names the setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.study.planning.preflight import Preflight
from ablab.tasks.text import Text

TinyConfig = Callable[..., RunConfig]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["model.n_heads=7"], r"model\.n_heads=7 does not divide model\.d_model=16: choose one of 1, 2, 4, 8, 16"),
        (["model.d_model=0"], r"model.*d_model"),
        (["attention=windowed", "attention.window=0"], "attention: window must be at least 1, got 0"),
        (["attention=windowed", "attention.window=big"], r"attention\.window='big': must be a whole number"),
        (["+attention.foo=1"], r"attention\.foo: no such setting of attention"),
        (["position=rope", "model.d_model=12", "model.n_heads=4"], "position: .* even head size"),
        (["task.path=???"], r"task\.path"),
        (["task.path=missing.txt"], r"missing\.txt: no such file"),
        (["task.seq_len=100000", "task.eval_tokens=null"], "shorten task.seq_len"),
        (["task.batch_size=3", "strategy=ddp"], r"task\.batch_size=3 cannot be shared equally by 2 .* multiple of 2"),
        (["strategy=ddp", "trainer.devices=1"], r"strategy: needs at least 2 processes, got trainer\.devices=1"),
        (["strategy.processes=2"], "strategy=single runs one process"),
        (["trainer.max_steps=0"], r"trainer\.max_steps=0: must be at least 1"),
        (["trainer.val_check_interval=0"], r"trainer\.val_check_interval=0: must be at least 1"),
        (["trainer.log_every_n_steps=0"], r"trainer\.log_every_n_steps=0: must be at least 1"),
        (["trainer.accumulate_grad_batches=0"], r"trainer\.accumulate_grad_batches=0: must be at least 1"),
        (["trainer.num_nodes=0"], r"trainer\.num_nodes=0: must be at least 1"),
        (["trainer.num_nodes=2"], r"strategy=single runs one process"),
        (["trainer.num_nodes=3", "strategy=ddp"], r"task\.batch_size=4 cannot be shared equally by 6 processes"),
        (["trainer.max_steps=1.5"], r"trainer\.max_steps=1\.5: must be a whole number"),
        (["trainer.precision=17"], r"trainer\.precision=17: must be one of .*32-true"),
        (["trainer.accelerator=abacus"], "trainer: .*abacus"),
        (["+trainer.max_epochs=3"], r"trainer\.max_epochs: training batches are drawn .*: use trainer\.max_steps"),
        (["+trainer.fast_dev_run=true"], r"trainer\.fast_dev_run: .*: use trainer=smoke"),
        (["+trainer.max_step=3"], r"trainer\.max_step: no such setting of trainer; did you mean 'max_steps'"),
        (["trainer.limit_val_batches=0"], r"trainer\.limit_val_batches=0: .* nothing to compare"),
        (["trainer.profiler=slow"], r"trainer\.profiler=slow: must be null, simple, advanced, pytorch"),
        (["optimizer.lr=-1"], "optimizer: Invalid learning rate: -1"),
        (["optimizer=muon", "optimizer.lr=-1"], "optimizer: lr=-1.0 must be at least 0"),
        (["optimizer=muon", "optimizer.momentum=1"], "optimizer: momentum=1.0 must be at least 0 and less than 1"),
        (["optimizer=muon", "optimizer.ns_steps=100"], "optimizer: ns_steps=100 must be 1 to 99"),
        (["optimizer=lion", "optimizer.weight_decay=-1"], "optimizer: weight_decay=-1.0 must be at least 0"),
        (
            ["optimizer=lion", "optimizer.betas=[0.9,1]"],
            r"optimizer: betas\[1\]=1.0 must be at least 0 and less than 1",
        ),
        (["optimizer=schedule_free", "optimizer.eps=-1"], "optimizer: eps=-1.0 must be at least 0"),
        (["optimizer=schedule_free", "optimizer.betas=[0,0.9]"], r"optimizer: betas\[0\]=0.0 must be above 0"),
        (["schedule.min_factor=3"], "schedule: min_factor must lie between 0 and 1"),
        (["trainer.limit_val_batches=0.001"], r"trainer\.limit_val_batches=0\.001: of 1 batches none is left"),
        (
            ["task=needle", "task.lengths=[32]", "trainer.limit_val_batches=1"],
            r"trainer\.limit_val_batches=1: task=needle evaluates 5 subsets, .*use task\.eval_samples",
        ),
        (
            ["task=recall", "task.segments=[[48,4]]", "+trainer.limit_test_batches=0.5"],
            r"trainer\.limit_test_batches=0\.5: task=recall evaluates 2 subsets, .*use task\.eval_samples",
        ),
        (["trainer.gradient_clip_val=-1"], r"trainer\.gradient_clip_val=-1\.0: must be at least 0, or null"),
        (["trainer.gradient_clip_val=nan"], r"trainer\.gradient_clip_val=nan: must be a finite number"),
        (["trainer.precision=16-mixed"], r"trainer\.precision=16-mixed: a CPU has no float16"),
        (["trainer.devices=x"], r"trainer\.devices=x: must be a whole number"),
        (["optimizer.lr=0"], r"optimizer\.lr=0: no step would change anything"),
        (["optimizer.eps=inf"], r"optimizer\.eps=inf: must be a finite number"),
        (["optimizer.betas=[0.9,nan]"], r"optimizer\.betas\[1\]=nan: must be a finite number"),
        (["task.target=nan"], r"task\.target=nan: must be a finite number"),
        (["schedule.warmup_share=nan"], r"schedule\.warmup_share=nan: must be a finite number"),
        (["tune.lr=[0.1,nan]"], r"tune\.lr\[1\]=nan: must be a finite number"),
        (["timeout=inf"], "timeout=inf: must be a finite number"),
        (["model.bias={a:1}"], r"model\.bias={'a': 1}: must be true or false"),
        (["attention=[full,lsh]"], r"attention=\[...\]: must be the name of one option"),
        (["name=.."], r"name=\.\.: must be the name of a folder in outputs/"),
        (["name=pilot"], "name=pilot: folders called pilot hold trials, which no comparison reads; choose another"),
        (["name=a/tune"], "name=a/tune: folders called tune hold trials"),
        (["name=/tmp/x"], "name=/tmp/x: must be the name of a folder in outputs/"),
        (["name=a/../../b"], r"name=a/\.\./\.\./b: must be the name of a folder in outputs/"),
        (["callbacks=early_stopping", "callbacks.early_stopping.monitor=val_los"], "did you mean 'val_loss'"),
        (
            ["+callbacks.mine._target_=recording.Unreadable"],
            r"callbacks\.mine: its state_dict cannot .*it holds pathlib",
        ),
        (["model.d_model=1048576"], r"^model: [\d,]+ parameters and their gradients take [\d,]+ GiB, and this"),
        (["trainer.max_time=00:00:00:00"], r"^trainer\.max_time=00:00:00:00: leaves no time for a step: give"),
        (["task.batch_size=10000000"], r"task\.batch_size=10000000: a training step keeps about \d+ GiB, and this"),
        (["seed=-1"], "seed=-1: must be at least 0"),
    ],
)
def test_a_run_that_cannot_work_is_refused_in_one_line(
    tiny_config: TinyConfig, overrides: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "training")  # whose recording.py has callbacks
    with pytest.raises(UserError, match=line) as caught:
        Preflight().check(tiny_config(*overrides))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "overrides", [[], ["strategy=ddp"], ["attention=lsh", "position=rope"], ["optimizer=sgd"], ["optimizer=muon"]]
)
def test_a_run_that_can_work_passes(tiny_config: TinyConfig, overrides: list[str]) -> None:
    Preflight().check(tiny_config(*overrides))


@pytest.mark.parametrize("limits", [["trainer.limit_val_batches=2"], ["+trainer.limit_test_batches=0"]])
def test_a_limit_that_leaves_out_no_subset_passes(tiny_config: TinyConfig, limits: list[str]) -> None:
    Preflight().check(tiny_config("task=recall", "task.segments=[[48,4]]", *limits))


@pytest.mark.filterwarnings("ignore:GPU available but not used")
@pytest.mark.parametrize(
    ("gpus", "overrides", "line"),
    [
        (
            2,
            ["trainer.accelerator=auto"],
            r"^trainer\.devices=4: there are 2 GPUs; choose fewer, or trainer\.accelerator=",
        ),
        (
            1,
            ["trainer.accelerator=gpu"],
            r"^trainer\.devices=4: there is 1 GPU; choose fewer, or trainer\.accelerator=cpu$",
        ),
        (2, ["trainer.accelerator=cpu"], None),
        (0, ["trainer.accelerator=auto"], None),
    ],
)
def test_more_devices_than_there_are(
    tiny_config: TinyConfig, gpus: int, overrides: list[str], line: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("strategy=ddp", "trainer.devices=4", *overrides)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if line is None:
        Preflight().check(config)
        return
    with pytest.raises(UserError, match=line):
        Preflight().check(config)


def test_a_task_that_does_not_see_the_gpus_of_its_node(
    tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config("strategy=ddp", "trainer.devices=2", "trainer.accelerator=gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (told | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        UserError, match=r"^trainer\.devices=2: each process sees 1 GPU, and must see all 2 of its node"
    ):
        Preflight().check(config)


def test_an_option_without_a_target_is_named(tiny_config: TinyConfig) -> None:
    config = tiny_config()
    del config.options["activation"]["_target_"]
    with pytest.raises(UserError, match="activation: the option has no _target_"):
        Preflight().check(config)


def test_data_that_runs_share_are_read_once(tiny_config: TinyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = Text._load

    def counted(self: Text) -> Any:
        read.append(self.path)
        return load(self)

    monkeypatch.setattr(Text, "_load", counted)
    preflight = Preflight()
    for overrides in (["attention=full"], ["attention=lsh"], ["seed=3"]):
        preflight.check(tiny_config(*overrides))
    assert len(read) == 1
    preflight.check(tiny_config("task.seq_len=16"))
    assert len(read) == 2
