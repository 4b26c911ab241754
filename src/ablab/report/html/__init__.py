"""The report: one HTML file that needs no network and no JavaScript, the same bytes for the same records."""
