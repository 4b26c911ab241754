"""The surroundings that the model supplies to its components, so that a YAML holds what is special to an option."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """The surroundings of a component.

    Raises:
        ValueError: a size is below 1, `layer_index` is not a layer, `n_heads` does not divide `d_model`, or
            `n_kv_heads` does not divide `n_heads`.
    """

    d_model: int  # width of the residual stream
    n_heads: int  # attention heads per layer
    d_ff: int  # hidden units of the feed-forward part
    layer_index: int  # 0 for the layer next to the embedding
    n_layers: int
    max_length: int  # longest sequence, in tokens
    causal: bool  # a position may look at itself and at earlier positions only
    seed: int  # of the run's parameters; components that draw at random derive their draws from it
    n_kv_heads: int | None = None  # heads of keys and values; None for as many as n_heads
    bias: bool = True  # linear layers have biases
    trained_length: int | None = None  # longest sequence that weights were learned from; None for max_length

    def __post_init__(self) -> None:
        for name in ("d_model", "n_heads", "d_ff", "n_layers", "max_length"):
            require_at_least(1, f"model.{name}", getattr(self, name))
        if not 0 <= self.layer_index < self.n_layers:
            raise ValueError(f"layer_index must lie in 0..{self.n_layers - 1}, got {self.layer_index}")
        if self.d_model % self.n_heads:
            choices = ", ".join(str(n) for n in range(1, self.d_model + 1) if self.d_model % n == 0)
            raise ValueError(
                f"model.n_heads={self.n_heads} does not divide model.d_model={self.d_model}: choose one of {choices}"
            )
        if self.n_kv_heads is not None and (self.n_kv_heads < 1 or self.n_heads % self.n_kv_heads):
            raise ValueError(
                f"model.n_kv_heads={self.n_kv_heads} does not divide model.n_heads={self.n_heads}: choose a divisor, "
                "or null for as many"
            )

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_heads if self.n_kv_heads is None else self.n_kv_heads

    @property
    def learned_from(self) -> int:
        """Tokens of the longest sequence of the training: what hangs on a length hangs on this one."""
        return self.max_length if self.trained_length is None else self.trained_length

    @property
    def head_size(self) -> int:
        """Width of one head's queries, keys and values."""
        return self.d_model // self.n_heads


class ClashError(ValueError):
    """Options of two axes that do not work together, named by their axes."""

    def __init__(self, axis: str, other: str, reason: str) -> None:
        super().__init__(f"the {axis} does not work with the {other}: {reason}")
        self.axis, self.other, self.reason = axis, other, reason


def require_at_most(most: int, name: str, value: int, those: str) -> None:
    """Raises ValueError where more is asked for than there is ("..., as there are 32 tokens in a sequence")."""
    if value > most:
        raise ValueError(f"{name}={value} is more than the {most} {those}: take at most {most}")


def require_at_least(least: int, name: str, value: int) -> None:
    """Raises ValueError ("window must be at least 1, got 0") where `value` is below `least`."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
