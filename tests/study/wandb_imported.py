"""W&B with what each of its runs imports, for processes that are forked from this one.

Its folder for pictures is made by the import, and removed by every process that ends: here none of them does it. It
lies where the tests keep what is removed at their end.
"""

import atexit
import os
import tempfile

tempfile.tempdir = os.environ["ABLAB_CACHE"]
import wandb.sdk.launch  # noqa: E402, F401
from wandb.sdk.data_types import _private  # noqa: E402

tempfile.tempdir = None
atexit.unregister(_private.MEDIA_TMP.cleanup)
_private.MEDIA_TMP._finalizer.detach()  # type: ignore[attr-defined]
