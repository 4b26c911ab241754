"""Many runs: designed, planned, checked before anything is trained, each in processes of its own, seen to their end.

`designs` says which variants a study runs, `planning` makes them runs that can be built, `trials` tunes them, and
`supervision` runs them. `conduct` is a study from its command to its last run, which Hydra calls through
`hydra_plugins.ablab`, where its plugin finder looks; `look` is what `ablab plan` knows of it before. `plan_file` keeps
the plan on the disk, `launch` goes through it, `kept` knows which of its runs are done with, `resume` goes on with it.
`events` and `outlook` are what those are told who show all this. `job` is one run by itself, without `-m` or under
another launcher, and `progress` its bar.
"""
