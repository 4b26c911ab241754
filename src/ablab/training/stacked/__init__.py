"""`stack=seeds`: the seeds of one variant trained in one process, by one pass for all of them."""
