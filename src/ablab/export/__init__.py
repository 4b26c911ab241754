"""Trained models for other programs: what `ablab export` writes.

`write` makes an export of a run, `folder` is what lies in it and reads it back, `vocabulary` what its tokens mean. For
transformers: `counterparts` the recipes that it has a model of, `settings` what of a run's model differs from one,
`configs` the `config.json` of each, `llama` and `deepseek` whose weights are whose, as `conversions` that go both ways.
"""
