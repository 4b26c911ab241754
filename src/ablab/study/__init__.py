"""Many runs: planned, checked before anything is trained, each in processes of its own, and seen to their end.

`sweep` makes the plan, `preflight` checks it, `launch` goes through it; Hydra calls them through
`hydra_plugins.ablab`, where its plugin finder looks. `supervisor` runs one run in processes of its own (`worker` is
their side of it), `resume` knows which runs are finished, `progress` shows it all on the terminal. `job` is one run
by itself, without `-m` or under another launcher.
"""
