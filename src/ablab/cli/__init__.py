"""The command line. `ablab` is a Hydra application with a few commands beside it.

`entry` sorts out what is asked for; `application` hands runs, sweeps and plans to Hydra, `commands` are the others and
`bench` those that measure, all made of what is in `parsing`; `endings` says what went wrong. What is heavy is imported
where it is used: help must not wait for torch.
"""

from ablab.cli.entry import main

__all__ = ["main"]
