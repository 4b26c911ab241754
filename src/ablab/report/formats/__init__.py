"""A comparison written down: the parts that every format shows, and one file per kind of format."""
