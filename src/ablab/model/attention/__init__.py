"""The attention axis: who looks at whom.

An option is a core, `Core(spec, *, own_option, ...)`, which mixes values of (B, H, T, D) and has no parameters of its
own unless that is its point; `ablab.model.attention.layer` puts projections around it. An option whose point is the
projections (`mla`, `nsa`, `dsa`, `mla_dsa`, `csa`, `hca`), or that has no keys that are looked at (`gated_delta`,
`mamba2`), is a whole layer instead.

* `base`, `layer`: the contracts, and what all cores share
* `full`, `windowed`, `lsh`, `dynamic`, `block_sparse`, `topk`, `mla`, `nsa`, `dsa`, `mla_dsa`: the options, one file
  each
* `compressed` (`csa`, `hca`), made of `compressor` (windows into entries) and `compressed_core` (what mixes them)
* `operators`: local and hashed attention as one operator, made of `local` (by `band`, around the diagonal), `hashed`
  (among items of one bucket), `kernel` (dense attention that can be merged, by log-sum-exp) and `rest` (what is left)
* `flex`: the engine on CUDA for all whose masks follow a rule or a choice, with a stand-in for CPUs
* `hashing`, `buckets`, `limits`, `blocks`: what decides whom a query sees
* `gated_delta`, `mamba2`: the linear options, made of `linear` (what is around) and `recurrence` (what mixes)
* `dense`: the softmax over whole matrices of scores, and what goes through long ones slice by slice
* `indexer`: the small attention that picks keys for another, and what it learns from
* `probe`, `switch_probe`, `index_probe`, `recurrence_probe`, `pictures`: which keys a core looks at, what is switched
  on, what an indexer finds, what a state remembers, and how it is drawn
"""
