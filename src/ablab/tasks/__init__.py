"""The axis `task`: what is learned, and by which metric it is judged.

`base` says what a task is; most are of one of two kinds, next-token prediction (`language`) and right answers
(`answers`); `batches` cuts both into batches, `balance` deals those of unequal lengths. The options, each beside what
it is made of:

* `text` (`source_text`, `text`), `hf_text` from `hugging_face`; files are found and split by `corpus`
* `classification` from `tables`
* `pixels` from `images`, with `pixel_objectives`
* `multimodal`: `spoken_arithmetic`
* `synthetic`: the diagnostic tasks

`tokenizers` turns text into ids, `cache` keeps what is expensive to make.
"""
