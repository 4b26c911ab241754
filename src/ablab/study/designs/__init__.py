"""Which variants a study runs: pure functions from factors to a list of variants."""
