"""The config: where it lies, what it may hold, who it is, and what to say when it is wrong.

`schema` (the keys at the top and the folder of options), `signature` (an option's keys against its class),
`identity` (freezing and fingerprint), `overrides`, `explain` (Hydra's errors in one line). Never imports torch.
"""

from ablab.config.axes import AXES, Axis
from ablab.config.identity import IDENTITY_EXCLUDES, fingerprint, freeze
from ablab.config.schema import CARRIED_OUT, ComparisonConfig, conf_folder, register_schema, studies_folder

__all__ = [
    "AXES",
    "CARRIED_OUT",
    "IDENTITY_EXCLUDES",
    "Axis",
    "ComparisonConfig",
    "conf_folder",
    "fingerprint",
    "freeze",
    "register_schema",
    "studies_folder",
]
