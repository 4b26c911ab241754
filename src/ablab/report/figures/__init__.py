"""Figures, one file per kind: plain Matplotlib, each with a sentence for those who cannot see it.

The report sets them into its page as SVG, the dashboard as PNG, a notebook shows them as they are.
"""
