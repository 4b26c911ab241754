"""The sections of the report, one file each: what they show, as plain values that the templates set into the page."""
