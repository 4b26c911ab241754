from __future__ import annotations

from collections.abc import Callable

import pytest

from ablab.model.spec import LayerSpec

Spec = Callable[..., LayerSpec]


def test_head_size(make_spec: Spec) -> None:
    assert make_spec(d_model=48, n_heads=6).head_size == 8


def test_heads_that_do_not_divide_name_both_values_and_the_choices(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match=r"^model.n_heads=7 does not divide model.d_model=12: .* 1, 2, 3, 4, 6, 12$"):
        make_spec(d_model=12, n_heads=7)


@pytest.mark.parametrize("name", ["d_model", "n_heads", "d_ff", "n_layers", "max_length"])
def test_sizes_below_one_are_named(make_spec: Spec, name: str) -> None:
    with pytest.raises(ValueError, match=f"model.{name} must be at least 1, got 0"):
        make_spec(**{name: 0})


def test_layer_index_must_be_a_layer(make_spec: Spec) -> None:
    with pytest.raises(ValueError, match=r"0..1, got 2"):
        make_spec(layer_index=2, n_layers=2)


def test_heads_of_keys_are_as_many_as_of_queries_unless_given(make_spec: Spec) -> None:
    assert make_spec(d_model=48, n_heads=6).kv_heads == 6
    assert make_spec(d_model=48, n_heads=6, n_kv_heads=2).kv_heads == 2


@pytest.mark.parametrize("n_kv_heads", [0, 4, 12])
def test_heads_of_keys_must_divide_those_of_queries(make_spec: Spec, n_kv_heads: int) -> None:
    with pytest.raises(ValueError, match=f"model.n_kv_heads={n_kv_heads} does not divide model.n_heads=6"):
        make_spec(d_model=48, n_heads=6, n_kv_heads=n_kv_heads)
