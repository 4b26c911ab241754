"""What a reader sees: tables, figures, the HTML report. Reads records and comparisons only; never imports torch."""
