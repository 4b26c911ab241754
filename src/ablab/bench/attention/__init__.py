"""`ablab bench attention`: the attention options beside what else one could install, at many lengths, in one run.

* `setting`: the sizes that all share. `implementation`: what the bench knows of each. `catalogue`: all of them.
* `ours`, `torch_peers`, `local_attention_peers`, `reformer_peers`, `transformers_peers`: one file per origin.
* `definitions`: the same attentions read aloud, dense. `check`: no implementation is timed before it agrees.
* `timing`, `memory`, `limits`, `peak`: how time, memory and the machine are measured, and what would be too much.
* `measure`: the run over the lengths. `results`: what it finds, and its JSON.
* `scaling`: exponents, crossovers, ratios. `tables`, `figure`: how it is shown. `command`: all of it together.
"""
