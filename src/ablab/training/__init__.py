"""One run: a config in, a folder with its record out.

`run` is the whole of it. `build` makes the objects, `module` is Lightning's view of the model, `callbacks` watch the
training, `cost` counts what it costs, `schedules` and `strategies` are axes, `generation` samples from a finished run.
"""
