"""ablab in Python: what the commands do, for scripts and notebooks.

    from ablab import compare, compose, load, run, sweep

    study = sweep("activation=relu,gelu", seed=[0, 1, 2], name="mine")  # `ablab -m`, in a process of its own
    study  # the table, in a notebook
    model = study.run(activation="gelu", seed=0).model()  # a PyTorch module

`actions` (compose, run, sweep, compare), `loaded` (load, and a study), `trained` (a run and its model), `words`
(settings as the command line has them), `command` (a command in a process of its own). Training goes on in other
processes: this one imports torch when a config is resolved or a model asked for, and not before.
"""

from ablab.api.actions import compare, compose, run, sweep
from ablab.api.loaded import Study, load
from ablab.api.trained import ExportedModel, Run

__all__ = ["ExportedModel", "Run", "Study", "compare", "compose", "load", "run", "sweep"]
