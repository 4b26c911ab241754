"""The engine on CUDA for attention whose masks follow a rule: PyTorch's FlexAttention.

* `call`: one call of it, and a dense stand-in with the same outputs and gradients for where it has none
* `sparse`: local and hashed attention in one softmax; `sorted`: all rounds of hashing in one call on the sorted
  sequence; `ordering`: who stands where in it, and what it sees
"""
