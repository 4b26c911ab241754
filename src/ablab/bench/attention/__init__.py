"""`ablab bench attention`: the attention options beside what else one could install, at many lengths, in one run.

* `implementation`: the sizes that all share, and what the bench knows of each.
* `ours`, `indexed`, `recurrent`, `torch_peers`, `package_peers`, `transformers_peers`: by origin.
* `definitions`: the same attentions read aloud, dense; no implementation is timed before it agrees.
* `cost`: how time, memory and the machine are measured, and what would be too much.
* `measure`: the run over the lengths. `results`: what it finds, and its JSON.
* `scaling`: exponents, crossovers, ratios. `tables`, `figure`: how it is shown. `command`: all of it together.
"""
