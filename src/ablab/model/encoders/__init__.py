"""How each modality becomes tokens of the model's width: `text` by a table, `features` by a projection.

`embedding` puts them one after the other into one stream.
"""
