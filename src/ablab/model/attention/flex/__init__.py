"""The engine on CUDA for attention whose masks follow a rule: PyTorch's FlexAttention.

* `call`: one call of it, and a dense stand-in with the same outputs and gradients for where it has none; every option
  asks `call.wanted` whether to take this way
* `masks`: rules of positions, and the blocks that a call visits for them, made once
* `rule`: attention under such a rule, with bounds, slopes, spans, sinks and shared queries and keys
* `pattern`: fixed patterns of blocks
* `chosen`: what queries have chosen, read bit by bit; `choosing`, `native` and `entries` are the options that choose
* `sparse`: local and hashed attention in one softmax; `sorted`: all rounds of hashing in one call on the sorted
  sequence; `ordering`: who stands where in it, and what it sees
"""
