"""The model: embedding > blocks (position, attention, activation) > layer fusion > norm > head.

Each axis is a folder, each option a file with one class `Option(spec: LayerSpec, *, own_option, ...)`. `transformer.py`
puts the parts together; of an input of several modalities `encoders` make the embedding, `modal_fusion` decides where
they meet, and `readout.py` makes one answer of all. `initialisation.py` gives every parameter its value by its name,
and `mechanism` measures whether the parts do what they claim.
"""
