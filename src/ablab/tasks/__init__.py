"""The axis `task`: what is learned, and by which figure it is judged.

`base` says what a task is; most are of one of two kinds, next-token prediction (`language`, cut into windows by
`windows`) and right answers (`answers`, served from a set of samples by `samples`). The options, each beside what it is
made of:

* `text` (`source_text`, `text`), `hf_text` from `hf_source`; files are found and split by `corpus`
* `classification` from `tables`, with `class_scores`
* `pixels` from `images`, with `pixel_objectives`
* `multimodal`: `spoken_arithmetic`
* `generated`: the diagnostic tasks

`tokenizers` turns text into ids, `cache` keeps what is expensive to make, `extras` asks for libraries that are missing.
"""
