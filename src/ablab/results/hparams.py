"""How a run ended, for services that show runs side by side: final metrics by name, and TensorBoard's HPARAMS tab.

The tab has one session per run with its true end, written when the run has ended.

TensorBoard keeps the first status that it reads, so nothing may be written before. The tab has a row for each group of
sessions, in the order of their names. A session without a group is one of its own, which bears the name of its run, the
path below the folder that is shown: so each run is a row with its own status, also where several studies have runs of
the same variant and seed, and those of a variant, which lie in one folder, are listed together. Only tensorboard's own
writer is used: whoever supervises a run that was killed writes for it without loading torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ablab.config import Node
from ablab.config.overrides import BETWEEN_OVERRIDES
from ablab.config.value_types import is_number
from ablab.results.factors import Settings
from ablab.results.names import name_of
from ablab.results.record import Record

# Final metrics have a name of their own: under that of a learning curve, the last point of a curve that diverged
# would count as its run's result.
FINAL, COST = "final/", "cost/"

_RUN_SUFFIX, _STUDY_SUFFIX = ".hparams", ".experiment"


def final_metrics(record: Record) -> dict[str, float]:
    """Return `final/val_loss`, `final/activation/zero_share`, ..., and `cost/parameters`, `cost/wall_time_s`, ...

    The final ones only of a run that ended well: one that stopped half-way has none. Only finite ones.
    """
    costs = {COST + name: value for name, value in vars(record.cost).items() if isinstance(value, int | float)}
    finals = {FINAL + name: value for name, value in {**record.mechanism, **record.metrics}.items()}
    metrics = {**(finals if record.status == "ok" else {}), **costs}
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def write_hparams(run_dir: Path, record: Record) -> None:
    """Write the run's session into an event file in `run_dir`, in the place of an earlier one.

    The hyper-parameters are the options of all axes, the overridden settings and the seed, and beside them the status
    in our own word: the tab shows that of a session in no column, and knows but one kind of failure. The metrics of the
    record become scalars `final/<name>`, only where the run ended well and only finite ones: a run that stopped
    half-way has no final metric.
    """
    started, ended = _seconds(record.started_at or record.finished_at), _seconds(record.finished_at)
    start = plugin_data_pb2.SessionStartInfo(start_time_secs=started)
    for name, value in _columns(record).items():
        _set(start.hparams[name], value)
    status = api_pb2.STATUS_SUCCESS if record.status == "ok" else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=ended)
    values = [
        _plugin_value(metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)),
        _plugin_value(metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)),
    ]
    if record.status == "ok":
        finite = {name: value for name, value in record.metrics.items() if math.isfinite(value)}
        values += [Summary.Value(tag=FINAL + name, simple_value=value) for name, value in finite.items()]
    _write(run_dir, _RUN_SUFFIX, values, step=record.cost.steps, wall_time=ended)


def write_experiment(study_dir: Path, records: Sequence[Record]) -> None:
    """Write the columns of the tab into an event file in `study_dir`, in the place of an earlier one.

    The columns are the hyper-parameters and the status, where the records differ in them, and the final metrics, the
    primary one first. Without it TensorBoard makes a column of everything that was ever logged. Of several folders that
    hold columns it takes one by chance: they should hold the same.
    """
    settings = [_columns(record) for record in records]
    names = dict.fromkeys(name for each in settings for name in each)
    columns = {name: [each.get(name) for each in settings] for name in names}
    primary = [record.primary.name for record in records if record.primary is not None]
    metrics = dict.fromkeys([*primary, *sorted({name for record in records for name in record.metrics})])
    experiment = api_pb2.Experiment(
        name=records[0].study if records else "",
        time_created_secs=time.time(),
        hparam_infos=[_column(name, values) for name, values in columns.items() if len(set(map(str, values))) > 1],
        metric_infos=[_metric(name) for name in metrics],
    )
    data = plugin_data_pb2.HParamsPluginData(experiment=experiment)
    _write(study_dir, _STUDY_SUFFIX, [_plugin_value(metadata.EXPERIMENT_TAG, data)], step=0, wall_time=time.time())


def experiment_files(folder: Path) -> list[Path]:
    """Return the files that `write_experiment` wrote into `folder` and below it."""
    return sorted(folder.rglob(f"events.out.tfevents.*{_STUDY_SUFFIX}"))


def hyperparameters(record: Record) -> Settings:
    """Return the options of all axes, the settings that the variant overrides, and the seed, by name.

    Also what a variant with a name overrides, and that name, and the settings that were chosen by tuning.
    """
    name = name_of(record)
    words = BETWEEN_OVERRIDES.split(record.variant.removesuffix(name).removesuffix(","))
    overrides = dict(override.split("=", 1) for override in words if "=" in override)
    settings = {key.lstrip("+~"): text for key, text in overrides.items()}
    named = record.config["design"]["variants"][name] if name else {}
    tuned = (record.tuning or {}).get("settings") or {}
    for more in (named, tuned):
        settings |= {str(key).lstrip("+~"): str(value) for key, value in more.items()} if isinstance(more, dict) else {}
    typed = {key: _lookup(record.config, key, text) for key, text in settings.items() if key not in record.axes}
    return {**record.axes, **typed, **({"variant": name} if name else {}), "seed": record.seed}


def _columns(record: Record) -> Settings:
    return {**hyperparameters(record), "status": record.status}


def _lookup(config: Node, key: str, text: str) -> Any:
    """The value of the dotted `key` with its type, or the text of the override if it is not in the config."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return text
        node = node[part]
    return node if isinstance(node, bool | int | float | str) else text


def _column(name: str, values: Iterable[Any]) -> api_pb2.HParamInfo:
    present = [value for value in values if value is not None]
    info = api_pb2.HParamInfo(name=name, differs=True)
    if all(isinstance(value, bool) for value in present):
        info.type = api_pb2.DATA_TYPE_BOOL
        info.domain_discrete.extend(sorted(set(present)))
    elif all(map(is_number, present)):
        info.type = api_pb2.DATA_TYPE_FLOAT64
        info.domain_interval.min_value, info.domain_interval.max_value = min(present), max(present)
    else:
        info.type = api_pb2.DATA_TYPE_STRING
        # A session has numbers as numbers, and the tab would look for them among the texts of a domain, in vain, and
        # hide their rows. Without one it filters by a regular expression.
        if all(isinstance(value, str) for value in present):
            info.domain_discrete.extend(sorted(set(present)))
    return info


def _metric(name: str) -> api_pb2.MetricInfo:
    return api_pb2.MetricInfo(name=api_pb2.MetricName(tag=FINAL + name), display_name=name)


def _set(field: Any, value: Any) -> None:
    if isinstance(value, bool):
        field.bool_value = value
    elif isinstance(value, int | float):
        field.number_value = value
    else:
        field.string_value = str(value)


def _plugin_value(tag: str, data: plugin_data_pb2.HParamsPluginData) -> Summary.Value:
    return Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)


def _write(folder: Path, suffix: str, values: list[Summary.Value], step: int, wall_time: float) -> None:
    for earlier in folder.glob(f"events.out.tfevents.*{suffix}"):
        earlier.unlink()  # TensorBoard keeps the first that it reads
    writer = EventFileWriter(str(folder), filename_suffix=suffix)
    writer.add_event(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))
    writer.close()


def _seconds(moment: str | None) -> float:
    """Seconds since 1970 of an ISO 8601 time; now if there is none."""
    return time.time() if moment is None else datetime.fromisoformat(moment).timestamp()
