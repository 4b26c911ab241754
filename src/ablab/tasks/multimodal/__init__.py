"""A task of three modalities, each needed: `spoken_arithmetic`, and what its inputs are made of.

* `instructions`: in words, what they ask for, and how far some of the modalities get
* `digits`: written ones (images) and spoken ones (recordings); `sounds`: dialled ones, and sound as tokens
* `samples`: all three together, scaled, and what is left without some
"""
