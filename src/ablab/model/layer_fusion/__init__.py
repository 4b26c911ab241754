"""The layer fusion axis: what the head sees of the layers. Each option is a `LayerFusion` (see `base.py`)."""
