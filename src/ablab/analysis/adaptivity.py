"""Does what is said to follow the input follow it? Decided from the mechanism metrics, not from the option's name."""

from __future__ import annotations

from ablab.analysis.pairing import Pairing

VARIATION = "layer_fusion/weight_variation"  # standard deviation of a layer's weight over inputs
NEGLIGIBLE = 1e-3  # of weights that add up to 1


def input_independent(pairing: Pairing, label: str) -> str | None:
    """The note on a layer fusion whose weights are said to depend on the input and in no run do."""
    measured = [own.mechanism[VARIATION] for own, _ in pairing.pairs if VARIATION in own.mechanism]
    if not measured or max(measured) >= NEGLIGIBLE:
        return None
    return (
        f"INPUT-INDEPENDENT  {label}: the weights of the layers vary by {max(measured):.1g} between inputs, less than "
        f"{NEGLIGIBLE:g}; as trained, this is a static fusion."
    )
