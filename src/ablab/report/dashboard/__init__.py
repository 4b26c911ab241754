"""TensorBoard over a folder of runs, with a view of the whole study beside the curves of its runs."""

from ablab.report.dashboard.service import serve

__all__ = ["serve"]
