"""Synthetic runs: records and folders as real runs leave them, with known numbers in them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ablab.results.collect import Runs, tabulate
from ablab.results.evaluation import Evaluation
from ablab.results.record import Corpus, Cost, Metric, Record
from ablab.results.store import METRICS_FILE, write_record

ACCURACY = Metric(name="val_accuracy", split="val", direction="max")
CORPUS = Corpus(name="tales", sha256="ab" * 32, size_bytes=1000, files=2)


def record(seed: int = 1, loss: float = 1.0, **changes: Any) -> Record:
    """A finished run. `axes` given are merged into the defaults; any field of `Record` can be replaced."""
    axes = {"task": "language", "attention": "full", "activation": "relu", **changes.pop("axes", {})}
    settings = changes.pop("settings", {})
    values: dict[str, Any] = {
        "status": "ok",
        "fingerprint": f"{axes}{seed}",
        "study": "demo",
        "variant": ",".join(f"{axis}={option}" for axis, option in axes.items() if axis != "task"),
        "seed": seed,
        "axes": axes,
        "config": {"seed": seed, "model": {"d_model": 64}, **settings},
        "primary": Metric(name="val_loss", split="val", direction="min"),
        "metrics": {"val_loss": loss, "val_accuracy": math.exp(-loss)},
        "mechanism": {"activation/zero_share": 0.5},
        "cost": Cost(
            parameters=12_345,
            flops_per_step=1_000_000,
            flops_total=100_000_000,
            steps=100,
            tokens=6_400,
            tokens_per_second=800.0,
            wall_time_s=9.5,
            train_time_s=8.0,
            peak_memory_bytes=50_000_000,
            peak_memory_method="saved tensors",
        ),
        "corpus": CORPUS,
        "versions": {"ablab": "0.1.0", "torch": "2.13.0"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "finished_at": "2026-01-01T00:00:00Z",
    }
    values.update(changes)
    return Record(**values)


def evaluation(name: str, fingerprint: str, loss: float = 1.0, **changes: Any) -> Evaluation:
    """An evaluation elsewhere of the run with that fingerprint."""
    length = next((int(word[13:]) for word in name.split(",") if word.startswith("task.seq_len=")), 64)
    values: dict[str, Any] = {
        "name": name,
        "fingerprint": fingerprint,
        "checkpoint": "best",
        "step": 100,
        "task": {"_target_": "ablab.tasks.text.Text", "seq_len": length},
        "primary": Metric(name="val_loss", split="val", direction="min"),
        "metrics": {"val_loss": loss, "val_accuracy": math.exp(-loss)},
        "evaluated": {"val": 8},
        "corpus": CORPUS,
    }
    return Evaluation(**values | changes)


def cost(base: Record, **changes: Any) -> Cost:
    """The cost of `base` with some fields replaced."""
    return dataclasses.replace(base.cost, **changes)


def ended(status: str, reason: str, seed: int = 1, **changes: Any) -> Record:
    """A run that did not finish: no metrics, the cost unknown."""
    return record(seed, status=status, reason=reason, metrics={}, mechanism={}, cost=Cost(), **changes)


def runs_of(records: Iterable[Record]) -> Runs:
    """The records as `collect` would give them, each in a folder of its own name."""
    return tabulate([(Path(f"runs/{index}"), item) for index, item in enumerate(records)])


def study(values: dict[str, list[float]], axis: str = "activation") -> list[Record]:
    """One run per option of `axis` and seed 1, 2, ...; a NaN is a diverged run, the first option the baseline."""
    return [
        ended("diverged", "train_loss became nan at step 7", seed, axes={axis: option})
        if math.isnan(loss)
        else record(seed, loss, axes={axis: option})
        for option, losses in values.items()
        for seed, loss in enumerate(losses, start=1)
    ]


def write_runs(folder: Path, records: Iterable[Record], steps: int = 5) -> Path:
    """The records as run folders below `folder`, with learning curves that end in the final loss."""
    for index, item in enumerate(records):
        item.index = index if item.index is None else item.index
        run = folder / str(index)
        write_record(run, item)
        loss = item.metrics.get("val_loss", 2.0)
        rows = ["epoch,step,train_loss,val_loss"]
        for step in range(1, steps + 1):
            value = loss + 1 / step - 1 / steps
            rows += [f"0,{step * 10},{value + 0.1},", f"0,{step * 10},,{value}"]  # sparse, as Lightning writes them
        (run / METRICS_FILE).write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def odd_runs() -> dict[str, list[Record]]:
    """Runs that no study plans and every study meets: incomplete, unequal, strange. By what is odd about them."""
    failed = [ended("failed", "boom", seed, primary=None, corpus=None, git=None) for seed in (1, 2)]
    return {
        "one run": [record()],
        "one variant": [record(1), record(2)],
        "one seed": study({"relu": [1.0], "gelu": [1.1]}),
        "all failed": failed,
        "all failed, two variants": [
            *failed,
            ended("interrupted", "killed", 1, axes={"activation": "gelu"}, primary=None),
        ],
        "baseline failed": [ended("failed", "boom", 1), *study({"gelu": [1.0, 1.1, 1.2]})],
        "metric missing": [record(1), record(1, axes={"activation": "gelu"}, metrics={})],
        "metric NaN": [record(1), record(1, axes={"activation": "gelu"}, metrics={"val_loss": math.nan})],
        "unicode": study({"ReLU²": [1.0, 1.1, 1.2], "活性化 $x$": [1.3, 1.2, 1.4]}),
        "huge and tiny": study({"relu": [1e12, 2e12, 3e12], "gelu": [1e-12, 2e-12, 4e-12]}),
        "unequal seeds": study({"relu": [1.0, 1.1], "gelu": [1.3, 1.2, 1.4, 1.5]}),
        "other task": [record(1), record(1, axes={"task": "vision", "activation": "gelu"})],
        "unknown fields": [from_the_future(item) for item in study({"relu": [1.0, 1.1], "gelu": [1.3, 1.2]})],
        "unequal metrics": [record(1), record(1, axes={"task": "vision"}, primary=ACCURACY)],
        "two hundred variants": study(
            {
                f"v{variant:03}": [1 + variant / 100 + seed * (variant % 7) / 50 for seed in (1, 2, 3)]
                for variant in range(200)
            }
        ),
    }


def from_the_future(item: Record) -> Record:
    """The record as this version reads it when a later one has written it, with fields of its own."""
    data = item.to_dict()
    data |= {
        "karma": {"deep": [1]},
        "cost": data["cost"] | {"joules": 12.5},
        "primary": data["primary"] | {"unit": "nat"},
    }
    return Record.from_dict(data)
