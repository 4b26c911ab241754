"""Diagnostic tasks: each needs one ability, and what can be reached with or without it is known.

* `base`: samples that are drawn, and which split each belongs to
* `recall`, `sequences` (induction, copying, sorting, parity), `needle`: the options
* `listops`: nested operators, from `trees` or from the files of `listops_files`
"""
