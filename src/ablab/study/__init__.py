"""Many runs: designed, planned, checked before anything is trained, each in processes of its own, seen to their end.

`designs` says which variants a study runs, `planning` makes them runs that can be built, `trials` tunes them and
measures their speed, and `supervision` runs them. `run_study` is a study from its command to its last run, which Hydra
calls through `hydra_plugins.ablab`, where its plugin finder looks; `preview_study` makes the `preview` that `plan`
shows. `plan_file` keeps the plan on the disk, and `launch` runs what is left of it, also when a study goes on. `job` is
one run by itself, without `-m` or under another launcher; `launched` is one whose processes torchrun or srun has
started. `events` is what those are told who show all this.
"""
