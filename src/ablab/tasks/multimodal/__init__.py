"""A task of three modalities, each needed: `spoken_arithmetic`, and what its inputs are made of.

* `phrases`: instructions in words, and what they ask for
* `handwriting`: where the image of a digit comes from
* `dialling`, `speech`: where its sound comes from; `spectrogram` turns it into tokens
* `samples`: all three together, and what is left without some; `oracle`: what can be reached with these
* `normaliser`: the scale of features, from training samples
"""
