"""Options of one's own that have the name of a built-in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablab.config import conf_folder
from ablab.config.schema import refuse_shadowed
from ablab.errors import UserError


def sources(*folders: Path) -> list[dict[str, Any]]:
    return [{"path": str(folder), "schema": "file", "provider": "command-line"} for folder in folders] + [
        {"path": "hydra.conf", "schema": "pkg", "provider": "hydra"}
    ]


@pytest.mark.parametrize(
    "name",
    [
        "activation/relu",
        "task/text",
        "callbacks/ema",
        "design/factorial",
        "study/quickstart",
        "recipe/nanogpt_shakespeare",
        "recipe/llama",
    ],
)
def test_an_option_with_the_name_of_a_built_in_one_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"{name}.yaml"
    file.parent.mkdir()
    file.touch()
    group, option = name.split("/")
    with pytest.raises(
        UserError, match=f"{name}.yaml: {group}={option} shadows the built-in option: give yours another"
    ):
        refuse_shadowed(sources(conf_folder(), tmp_path))


def test_options_under_names_of_their_own_are_not(tmp_path: Path) -> None:
    (tmp_path / "activation").mkdir()
    (tmp_path / "activation" / "sine.yaml").touch()
    refuse_shadowed(sources(conf_folder(), tmp_path))
    refuse_shadowed(sources(conf_folder(), conf_folder()))
