"""ablab in Python: what the commands do, for scripts and notebooks.

from ablab import compare, compose, load, run, sweep

study = sweep("activation=relu,gelu", seed=[0, 1, 2], name="mine")  # `ablab -m`, in a process of its own
study                                                               # the table, in a notebook
model = study.run(activation="gelu", seed=0).model()                # a PyTorch module

`actions` (compose, run, sweep, compare), `loaded` (load, and what it gives), `words` (settings as the command line has
them), `command` (a command in a process of its own). What is trained is trained in other processes: this one imports
torch when a config is resolved or a model asked for, and not before.
"""

from ablab.api.actions import compare, compose, run, sweep
from ablab.api.loaded import ExportedModel, Run, Study, load

__all__ = ["ExportedModel", "Run", "Study", "compare", "compose", "load", "run", "sweep"]
