"""All implementations that can be had here, and those that cannot."""

from __future__ import annotations

from collections.abc import Sequence

from ablab.bench.attention import (
    flash_attn_peers,
    local_attention_peers,
    ours,
    reformer_peers,
    torch_peers,
    transformers_peers,
)
from ablab.bench.attention.implementation import Implementation, Missing
from ablab.bench.attention.results import first_line
from ablab.bench.attention.setting import Setting
from ablab.errors import UserError

# A package may be there and not work with the others that are: whatever its import raises, it is left out.
_PEERS = {
    "local-attention": local_attention_peers,
    "reformer-pytorch": reformer_peers,
    "transformers": transformers_peers,
}


def catalogue(setting: Setting) -> tuple[list[Implementation], list[Missing]]:
    """What is there, ours first, and what is missing, with the reason."""
    found = [*ours.implementations(setting), *torch_peers.implementations(setting)]
    missing = []
    peers = _PEERS | ({"flash-attn": flash_attn_peers} if setting.device == "cuda" else {})
    for name, module in peers.items():
        try:
            found += module.implementations(setting)
        except Exception as error:  # importing a peer may raise whatever it likes
            missing.append(Missing(name, _reason(name, error)))
    return found, missing


def chosen(found: Sequence[Implementation], names: Sequence[str]) -> list[Implementation]:
    """Those named, in the order of the catalogue; all where none is.

    Raises:
        UserError: a name is unknown.
    """
    known = [each.name for each in found]
    for name in names:
        if name not in known:
            raise UserError(f"--implementations {name}: there are {', '.join(known)}")
    return [each for each in found if not names or each.name in names]


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "not installed" + ("; pip install 'ablab[bench]' brings it" if name in _PEERS else "")
    return f"cannot be imported ({first_line(error)})"
