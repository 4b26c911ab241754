"""A whole new axis, added as a contributor would: what it takes, and that everything else follows from it.

The house is copied to a temporary folder, and the axis `addition` (what of a part is added to the stream) is
built into the copy. It lies first on the path of every process of a study that varies the axis.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import forking_all

HOUSE = Path(__file__).parents[1]
D_MODEL, LAYERS, LENGTH, BATCH = 16, 2, 32, 4

OPTIONS = '''
"""The axis `addition`: what of a part of a block is added to the stream."""

import torch
from torch import nn

from ablab.model.mechanism import Watcher, answer, drawn, projected


class Addition(nn.Module):
    """What is added to the stream x of what a part gives, y, both (B, T, d_model)."""

    def __init__(self, spec, *, note=""):
        super().__init__()

    def forward(self, x, y):
        return y


class Projected(Addition):
    def __init__(self, spec):
        super().__init__(spec)
        self.project = nn.Linear(spec.d_model, spec.d_model, bias=False)

    def forward(self, x, y):
        return self.project(y)


class Misspelt(Addition):
    def mechansim(self):
        return {}


class SizeWatcher(Watcher):
    seen = float("nan")

    @torch.no_grad()
    def hook(self, module, args, kwargs, output):
        self.seen = (output.norm() / args[0].norm()).item()

    def metrics(self):
        return {"size": self.seen}


def watch(model, pictured):
    for layer, block in model.layers():
        yield SizeWatcher("addition", layer, block.addition)


def probe_outputs(model):
    block = next(model.layers())[1]
    x, y = (drawn(name, (1, 8, model.head.in_features), model.head.weight) for name in "xy")
    return {"": projected(answer(block.addition, x, y))}
'''

ENTRY = """
    Axis(
        name="addition",
        caller="model",
        kinds=("ablab.model.addition.Addition",),
        supplied=("spec",),
        governs="what parts add to the stream",
        mechanism="ablab.model.addition.watch",
        probe_outputs="ablab.model.addition.probe_outputs",
    ),
"""

NEW = {
    "conf/addition/plain.yaml": "_target_: ablab.model.addition.Addition\n_partial_: true\nnote: plain\n",
    "conf/addition/renamed.yaml": "_target_: ablab.model.addition.Addition\n_partial_: true\nnote: as plain\n",
    "conf/addition/projected.yaml": "_target_: ablab.model.addition.Projected\n_partial_: true\n",
    "conf/addition/misspelt.yaml": "_target_: ablab.model.addition.Misspelt\n_partial_: true\n",
    "src/ablab/model/addition/__init__.py": OPTIONS,
}
# File -> what in it becomes what.
DECLARED = {
    "src/ablab/config/axes.py": {"_COMPONENTS = (\n": "_COMPONENTS = (" + ENTRY},
    "conf/config.yaml": {"  - norm: layer\n": "  - norm: layer\n  - addition: plain\n"},
}
USED = {
    "src/ablab/model/transformer.py": {
        "        layer_fusion: Callable[": "        addition: Callable,\n        layer_fusion: Callable[",
        "                norm=norm,\n": "                norm=norm,\n                addition=addition,\n",
    },
    "src/ablab/model/block.py": {
        "        dropout: float,\n": "        dropout: float,\n        addition: Callable[[LayerSpec], nn.Module],\n",
        "        self._check()\n": "        self.addition = addition(spec)\n        self._check()\n",
        "self.attention_dropout(self.attention_added_norm(attend(norm.before(y))))": "self.attention_dropout("
        "self.addition(y, self.attention_added_norm(attend(norm.before(y)))))",
        "self.feed_forward_dropout(self.feed_forward_added_norm(added))": "self.feed_forward_dropout("
        "self.addition(y, self.feed_forward_added_norm(added)))",
    },
}
SETTINGS = (
    *("task=text", f"task.seq_len={LENGTH}", f"task.batch_size={BATCH}", "task.eval_tokens=256", "logger=csv"),
    *(f"model.d_model={D_MODEL}", "model.n_heads=2", f"model.n_layers={LAYERS}", "position=rope"),
    *("trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1"),
)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the program with one axis more."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("src", "conf"):
        shutil.copytree(HOUSE / name, folder / name)  # what is compiled of it, too
    for path, text in NEW.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    for path, changes in (DECLARED | USED).items():
        text = (folder / path).read_text(encoding="utf-8")
        for before, after in changes.items():
            assert text.count(before) == 1, f"{path} has changed: adapt what this test replaces in it ({before!r})"
            text = text.replace(before, after)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def ablab(house: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(house / "src"), "COLUMNS": "200"}
    command = [sys.executable, "-m", "ablab", *arguments]
    return subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def study(house: Path, corpus: Path) -> tuple[Path, str]:
    """The folder of a study of the axis, and what it said; its command starts in full, with all that it starts."""
    swept = ("-m", "addition=plain,renamed,projected", "seed=0,1", "name=addition", f"task.path={corpus}")
    done = ablab(house, *swept, *SETTINGS)
    assert done.returncode == 0, done.stderr + done.stdout
    return house / "outputs/addition", done.stdout


@pytest.fixture(scope="module")
def records(study: tuple[Path, str]) -> dict[str, list[dict[str, Any]]]:
    """By option."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(study[0].rglob("record.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(record["axes"]["addition"], []).append(record)
    return found


def test_it_takes_two_existing_files_beside_the_models_use_of_it(house: Path) -> None:
    ours = [path for name in ("src", "conf") for path in (HOUSE / name).rglob("*") if "__pycache__" not in path.parts]
    kept = {str(path.relative_to(HOUSE)): path.read_bytes() for path in ours if path.is_file()}
    changed = {path for path, content in kept.items() if (house / path).read_bytes() != content}
    assert changed - USED.keys() == {"src/ablab/config/axes.py", "conf/config.yaml"}
    assert all(path.startswith("src/ablab/model/") for path in USED)
    assert not NEW.keys() & kept.keys()


@pytest.mark.slow
def test_it_is_swept_and_counted(records: dict[str, list[dict[str, Any]]]) -> None:
    assert {option: len(each) for option, each in records.items()} == {"plain": 2, "renamed": 2, "projected": 2}
    assert {record["status"] for each in records.values() for record in each} == {"ok"}
    plain, projected = (records[option][0]["cost"] for option in ("plain", "projected"))
    weights = LAYERS * D_MODEL**2
    assert projected["parameters"] - plain["parameters"] == weights
    uses = 2 * LENGTH * BATCH  # by both parts of a block, which share one
    assert projected["flops_per_step"] - plain["flops_per_step"] == 6 * weights * uses


@pytest.mark.slow
def test_other_parameters_keep_their_initial_values(records: dict[str, list[dict[str, Any]]]) -> None:
    """Common random numbers: a renamed option trains exactly as the other."""
    for plain, renamed in zip(records["plain"], records["renamed"], strict=True):
        assert plain["metrics"] == renamed["metrics"]


@pytest.mark.slow
def test_it_is_probed(records: dict[str, list[dict[str, Any]]]) -> None:
    for record in records["projected"]:
        sizes = [record["mechanism"][f"addition/size/layer_{layer}"] for layer in range(LAYERS)]
        assert record["mechanism"]["addition/size"] == pytest.approx(sum(sizes) / LAYERS)
        assert all(size > 0 for size in sizes)
    own = {option: each[0]["responses"]["addition"] for option, each in records.items()}
    assert own["plain"] == own["renamed"] != own["projected"]


@pytest.mark.slow
def test_it_is_compared_guarded_against_no_effect_and_reported(study: tuple[Path, str], house: Path) -> None:
    folder, said = study
    with forking_all():
        compared = ablab(house, "compare", str(folder)).stdout
    for text in (said, compared):
        verdict = next(line for line in text.splitlines() if "NO EFFECT" in line)
        assert "addition=renamed" in verdict
        assert "what parts add to the stream" in text
        assert not any("NO EFFECT" in line and "projected" in line for line in text.splitlines())
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h3>addition</h3>" in page
    assert "addition=projected" in page


@pytest.mark.slow
def test_a_misspelt_offer_is_refused(house: Path, corpus: Path) -> None:
    with forking_all():
        refused = ablab(house, "addition=misspelt", f"task.path={corpus}", *SETTINGS)
    assert refused.returncode != 0
    assert "addition: nobody asks for Misspelt.mechansim; did you mean 'mechanism'?" in refused.stderr
