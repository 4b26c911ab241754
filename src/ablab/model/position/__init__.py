"""The position axis: how the model knows the order of the tokens. Each option is a `Position` (see `base.py`)."""
