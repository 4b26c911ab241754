"""Whole studies without training: records, learning curves and pictures as real ones leave them, with known effects."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image
from synthetic import ended, record

from ablab.results.record import Metric, Record
from ablab.results.store import METRICS_FILE, PICTURE_FOLDER, write_record

STEPS = (50, 100, 150, 200)
EFFECTS = {"full": 0.0, "windowed": -0.04, "lsh": 0.03}
TOGETHER = 0.05  # what lsh and gelu do beyond the sum of their effects


def factorial(seeds: int = 5) -> list[Record]:
    """Attention x activation. `gelu` helps, `lsh` with `gelu` interact; one run diverged and one failed."""
    random = np.random.default_rng(7)
    luck = random.normal(0, 0.05, seeds)
    records: list[Record] = []
    for attention, effect in EFFECTS.items():
        for activation in ("relu", "gelu"):
            for seed in range(seeds):
                loss = 2.0 + luck[seed] + effect - 0.02 * (activation == "gelu") + random.normal(0, 0.004)
                loss += TOGETHER * (attention == "lsh" and activation == "gelu")
                records.append(_run(seed, float(loss), attention, activation))
    for index, item in enumerate(records):
        item.index = index
    diverged, failed = records[seeds * 3 + 1], records[seeds * 5 + 1]
    records[diverged.index or 0] = _ended("diverged", "train_loss became nan at step 7", diverged)
    records[failed.index or 0] = _ended("failed", "out of memory <on purpose>", failed)
    return records


def lengths(seeds: int = 3) -> list[Record]:
    """Two attentions at four lengths: the time of `full` grows with the square of the length, that of `lsh` with it."""
    random = np.random.default_rng(8)
    records: list[Record] = []
    for length in (128, 256, 512, 1024):
        for attention, power in (("full", 2.0), ("lsh", 1.0)):
            for seed in range(seeds):
                item = _run(seed, 2.0 - 0.1 * float(np.log2(length)) + float(random.normal(0, 0.01)), attention, "relu")
                item.config = {**item.config, "task": {"seq_len": length}}
                seconds = 1e-5 * length**power * float(np.exp(random.normal(0, 0.02)))
                item.cost = dataclasses.replace(
                    item.cost,
                    train_time_s=seconds * 100,
                    wall_time_s=seconds * 120,
                    flops_per_step=int(1000 * length**power),
                    flops_total=int(100_000 * length**power),
                    peak_memory_bytes=int(2000 * length**power),
                )
                item.index = len(records)
                records.append(item)
    return records


def write(folder: Path, records: list[Record]) -> Path:
    """The records as folders of runs, with curves that end in their losses and a picture of attention each."""
    for number, item in enumerate(records):
        run = folder / f"run{number}"
        if item.status == "ok":
            item.pictures = [f"{PICTURE_FOLDER}/attention_layer_0.png"]
            (run / PICTURE_FOLDER).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 16, (64, 64), dtype=np.uint8) * 17
            Image.fromarray(pixels, mode="L").save(run / item.pictures[0])
        write_record(run, item)
        (run / METRICS_FILE).write_text("\n".join(_curve(item)) + "\n", encoding="utf-8")
    return folder


def _run(seed: int, loss: float, attention: str, activation: str) -> Record:
    axes = {"attention": attention, "activation": activation}
    item = record(seed, loss, axes=axes)
    item.primary = Metric(name="val_loss", split="val", direction="min")
    item.cost = dataclasses.replace(
        item.cost,
        flops_total=(item.cost.flops_total or 0) + 20_000_000 * (attention == "lsh"),
        tokens_per_second=400.0 if attention == "lsh" else 800.0 + 10 * seed,
        wall_time_s=9.5 + 8 * (attention == "lsh"),
    )
    layers = {f"activation/zero_share/layer_{layer}": 0.4 + 0.1 * layer for layer in range(3)}
    keys = {f"attention/keys_visited/layer_{layer}": 64.0 / (1 + layer * (attention != "full")) for layer in range(3)}
    item.mechanism = {
        "activation/zero_share": 0.5, "activation/dead_share": 0.01, "attention/keys_visited": 40.0,
        "attention/mass_captured": 0.9,
        "schedule/learning_rate_last": 1e-4, **layers, **keys,
    }  # fmt: skip
    return item


def _ended(status: str, reason: str, like: Record) -> Record:
    item = ended(status, reason, like.seed, axes={key: like.axes[key] for key in ("attention", "activation")})
    item.index = like.index
    return item


def _curve(item: Record) -> list[str]:
    last = item.metrics.get("val_loss", 3.0)
    rows = ["step,train_loss,learning_rate,val_loss"]
    for step in STEPS:
        value = last + 20 / step - 20 / STEPS[-1]
        rows += [f"{step},{value + 0.1},{1e-3 * (1 - step / 250)},", f"{step},,,{value}"]  # sparse, as Lightning writes
    return rows
