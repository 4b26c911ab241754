"""Runs of Weights & Biases: how one is begun, and the one id that all attempts at it share.

A training run is one, and so is a study's report, which is written without torch. W&B is imported when one is begun.
"""

from __future__ import annotations

import netrc
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic_core import ValidationError

from ablab.config import Node
from ablab.config.redact import redact, redact_text
from ablab.errors import UserError
from ablab.results.store import WANDB_ID_FILE, write_atomically

if TYPE_CHECKING:
    import wandb

NO_KEY = "no API key: log in with `wandb login` or set WANDB_API_KEY"
_LONGEST_TAG = 64  # characters; W&B refuses longer ones
_LONGEST_NAME = 128


def begin(
    folder: Path,
    *,
    project: str,
    entity: str | None,
    offline: bool,
    name: str,
    group: str,
    job_type: str,
    tags: Iterable[str],
    config: Node,
) -> wandb.Run:
    """Begin the W&B run of `folder`, beside any other that is open, or go on with it.

    It lies in `folder`/wandb. A second attempt that is made offline is a second folder there, with the id of the first:
    uploaded in order, by `wandb sync` or `ablab sync`, they are one run. What is too long for W&B is cut.

    Raises:
        UserError: W&B could not start, or there is no API key and `offline` is false; nobody is asked for one.
    """
    try:
        import wandb
    except ImportError as error:
        raise UserError(f"W&B: wandb cannot be imported ({error}): pip install wandb") from error
    check_key(offline)
    asked, sys.argv = sys.argv, redact(sys.argv)  # which W&B keeps
    try:
        return wandb.init(
            project=project,
            entity=entity,
            dir=folder,
            mode="offline" if offline else "online",
            id=run_id(folder),
            resume="allow",  # also offline: an upload then goes on behind what the server has
            name=name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 24]}...{name[-20:]}",
            group=group[:_LONGEST_NAME] or None,
            job_type=job_type,
            tags=list(dict.fromkeys(redact_text(tag)[:_LONGEST_TAG] for tag in tags if tag)),
            config=redact(config),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"W&B could not start ({reason}): log in with `wandb login`, or set logger.wandb.offline=true"
        ) from error
    finally:
        sys.argv = asked


def run_id(folder: Path) -> str:
    """Return the id of the W&B run of `folder`; made when it is first asked for, and kept there."""
    path = folder / WANDB_ID_FILE
    if not path.is_file():
        write_atomically(path, secrets.token_hex(6) + "\n")
    return path.read_text(encoding="utf-8").strip()


def offline_folders(folder: Path, identity: str = "*") -> list[Path]:
    """Return the folders that W&B wrote offline in `folder`, in the order of time: of a run by its id, or of all."""
    return sorted(path for path in folder.glob(f"wandb/offline-run-*-{identity}") if path.is_dir())


def check_key(offline: bool) -> None:
    """Raises UserError where W&B's own settings are wrong, or runs are to be uploaded at once without an API key."""
    _own_settings()
    if not (offline or has_key()):
        raise UserError(f"W&B could not start ({NO_KEY}), or set logger.wandb.offline=true")


def has_key() -> bool:
    """Whether W&B would find an API key for its server, in the environment, its settings or .netrc."""
    settings = _own_settings()
    if settings.api_key or settings.identity_token_file:
        return True
    places = [os.environ["NETRC"]] if "NETRC" in os.environ else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            known = netrc.netrc(os.path.expanduser(place))
        except (OSError, netrc.NetrcParseError):
            continue
        if known.authenticators(urlsplit(settings.base_url).netloc):
            return True
    return False


def _own_settings() -> wandb.Settings:
    """What the environment and W&B's files say. Raises UserError for a value that W&B does not know."""
    import wandb

    try:
        return wandb.setup().settings
    except ValidationError as error:
        wrong = error.errors()[0]
        name = "_".join(map(str, wrong["loc"]))
        raise UserError(
            f"W&B could not start ({name}: {wrong['msg']}): mend WANDB_{name.upper()}, or W&B's file of settings"
        ) from error
