"""The config: where it lies, what it may hold, the typed config of a run, its identity, and what to say of mistakes.

`axes` (the table of what can be swapped), `schema` (the keys at the top, typed, and the folder of options),
`composed` (from what Hydra composed to one typed `RunConfig`), `compose` (composing within Python), `run_config` (what
that holds), `signature` (an option's keys against its class), `identity` (the fingerprint), `overrides`, `explain`
(Hydra's errors in one line), `nearest` (did you mean ...?). Never imports torch.
"""

from ablab.config.axes import AXES, Axis
from ablab.config.composed import resolve
from ablab.config.identity import IDENTITY_EXCLUDES, fingerprint
from ablab.config.run_config import RunConfig
from ablab.config.schema import (
    EXECUTION_KEYS,
    ComparisonConfig,
    Node,
    conf_folder,
    register_schema,
    studies_folder,
)

__all__ = [
    "AXES",
    "EXECUTION_KEYS",
    "IDENTITY_EXCLUDES",
    "Axis",
    "ComparisonConfig",
    "Node",
    "RunConfig",
    "conf_folder",
    "fingerprint",
    "register_schema",
    "resolve",
    "studies_folder",
]
