"""What a reader sees. Reads records and comparisons only; never imports torch.

`tables` and `drawings` are what there is to show, `formats` the text of `ablab compare`, `html` the report, `dashboard`
the view in TensorBoard, `notebook` a study as DataFrames and figures, `live` the screen of a running sweep; `conclude`
is what a sweep ends with.
"""
