"""Speed, measured side by side: ratios of what was interleaved in one run, never single times."""
