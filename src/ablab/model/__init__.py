"""The model: embedding > blocks (position, attention, activation) > norm > head.

Each axis is a folder, each option a file with one class `Option(spec: LayerSpec, *, own_option, ...)`. `transformer.py`
puts the parts together, `initialisation.py` gives every parameter its value by its name, and `mechanism.py` measures
whether the parts do what they claim.
"""
