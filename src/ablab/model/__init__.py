"""The model: embedding > blocks (norm, attention, norm, feed-forward part) > layer fusion > norm > head.

Each axis is a module or a folder of its own name, each option a class `Option(spec: LayerSpec, *, own_option, ...)`
with a YAML in conf/; the table of axes is `ablab.config.axes`.

* `transformer`, `block`: put the parts together; `multimodal` is the same for inputs of several modalities
* `norm`, `attention`, `feed_forward`, `activation`, `position`, `layer_fusion`, `modal_fusion`: the axes, each with the
  watchers that take its mechanism metrics and with its answers to fixed inputs
* `decoding`, `generation`, `sampling`, `drafting`: tokens that come one by one, from what layers keep
* `spec`, `protocols`: what a component is given, and what it may offer
* `initialisation`: every parameter's value, by its name
* `mechanism`: whether the parts do what they claim
* `ranks`: the processes of a distributed run, to components
"""
