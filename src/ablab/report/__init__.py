"""Views for readers. Reads records and comparisons only; never imports torch.

A `context` holds the runs, their comparison and what follows from both, once for every view. `rows` are the tables as
numbers, `tables` and `drawings` what people are shown of them, in the words of `sentences`, `notes` and `formatting`.
The views: `formats` the text of `ablab compare`, `html` the report, `dashboard` the view in TensorBoard, `notebook` a
study as DataFrames and figures, `live` the screen of a running sweep; `conclude` ends a sweep.
"""
