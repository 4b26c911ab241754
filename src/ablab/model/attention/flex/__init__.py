"""The engine on CUDA for attention whose masks follow a rule: PyTorch's FlexAttention.

* `call`: one call of it, and a dense stand-in with the same outputs and gradients for where it has none
* `sorted`: hashed attention, all rounds in one call on the sorted sequence; `ordering`: the sort, and who sees what then
"""
