"""Generation, a token after the other: every attention, and whole recipes beside the models of `transformers`.

`entries` makes what is timed, `measure` lets all of them take turns, `tables` tells people, `command` is `ablab bench
decode`.
"""
