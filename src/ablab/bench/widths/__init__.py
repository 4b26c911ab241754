"""`ablab bench widths`: the coordinate check of a parametrisation (Yang et al. 2022, arXiv 2203.03466, appendix D.1).

Models of several widths take a few steps of training on the same batches. How far that moves what layers give must not
depend on the width, if the best learning rate is to be the same at every width.
"""
