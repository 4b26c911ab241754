from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from ablab.model.attention.full import FullAttention
from ablab.model.spec import ClashError, LayerSpec
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(seed))


def layers_of(attention: str) -> int:
    """As many as differ: what one layer does another one of the same kind does, too."""
    return 2 if attention == "pattern" else 1


def perturb(model: Transformer) -> None:
    """Larger weights than the initial ones, so that differences show."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)


def by_hand(model: Transformer, ids: Tensor) -> Tensor:
    """A causal pre-norm transformer with ReLU and learned positions, written out from its weights."""
    w = model.state_dict()
    B, T = ids.shape
    d, heads = w["embedding.weight"].shape[1], 2
    x = w["embedding.weight"][ids] + w["position.weight"][:T]
    for i in range(len(model.blocks)):

        def linear(y: Tensor, name: str, i: int = i) -> Tensor:
            out: Tensor = y @ w[f"blocks.{i}.{name}.weight"].T + w[f"blocks.{i}.{name}.bias"]
            return out

        def norm(y: Tensor, name: str, i: int = i) -> Tensor:
            return layer_norm(y, (d,), w[f"blocks.{i}.{name}.weight"], w[f"blocks.{i}.{name}.bias"])

        y = norm(x, "attention_norm")
        q, k, v = (linear(y, f"attention.{name}").view(B, T, -1, d // heads) for name in ("query", "key", "value"))
        k, v = (x.repeat_interleave(heads // x.shape[2], dim=2) for x in (k, v))
        mixed = torch.zeros_like(q)
        for t in range(T):
            scores = torch.einsum("bhd,bshd->bhs", q[:, t], k[:, : t + 1]) / (d // heads) ** 0.5
            mixed[:, t] = torch.einsum("bhs,bshd->bhd", scores.softmax(-1), v[:, : t + 1])
        x = x + linear(mixed.reshape(B, T, d), "attention.output")
        hidden = linear(norm(x, "feed_forward_norm"), "feed_forward.up").clamp(min=0)
        x = x + linear(hidden, "feed_forward.down")
    logits: Tensor = layer_norm(x, (d,), w["norm.weight"], w["norm.bias"]) @ w["head.weight"].T
    return logits


@pytest.mark.parametrize("tie_embeddings", [True, False])
@pytest.mark.parametrize("n_kv_heads", [None, 1])
def test_logits_are_those_of_the_formulas(build: Build, tie_embeddings: bool, n_kv_heads: int | None) -> None:
    model = build(tie_embeddings=tie_embeddings, n_kv_heads=n_kv_heads).double()
    block: Any = model.blocks[0]
    assert block.attention.key.out_features == 8 * (n_kv_heads or 2)
    perturb(model)
    ids = tokens(3, 9)
    torch.testing.assert_close(model(ids), by_hand(model, ids), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
def test_what_is_padded_does_not_matter(build: Build, attention_option: str, causal: bool) -> None:
    model = build(attention=attention_option, causal=causal).double().eval()
    perturb(model)
    first, second = tokens(2, 20, seed=1), tokens(2, 20, seed=2)
    padding = torch.arange(20) >= torch.tensor([[13], [20]])
    second = torch.where(padding, second, first)
    before, after = model(first, padding), model(second, padding)
    assert before.isfinite().all()
    torch.testing.assert_close(after[~padding], before[~padding], rtol=0, atol=1e-12)
    assert not torch.allclose(model(first)[0], model(second)[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_at_the_end_is_as_good_as_none(build: Build, causal: bool) -> None:
    model = build(causal=causal).double()
    perturb(model)
    ids = tokens(2, 20)
    padded = model(ids, torch.arange(20) >= torch.tensor([[13], [20]]))
    torch.testing.assert_close(padded[:1, :13], model(ids[:1, :13]), rtol=0, atol=1e-9)
    torch.testing.assert_close(padded[1:], model(ids[1:]), rtol=0, atol=1e-9)


def test_a_mask_that_is_not_of_the_tokens_is_refused(build: Build) -> None:
    with pytest.raises(ValueError, match=r"key_padding_mask must be bool \(2, 8\) as the tokens, got .*bool \(1, 8\)"):
        build()(tokens(2, 8), torch.zeros(1, 8, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"key_padding_mask must be bool"):
        build()(tokens(2, 8), torch.zeros(2, 8))


class Penalised(FullAttention):
    def __init__(self, spec: LayerSpec) -> None:
        super().__init__(spec)
        self.layer_index = spec.layer_index
        self.share = torch.nn.Parameter(torch.tensor(0.5))

    def penalty(self) -> Tensor:
        return self.share * (1 + self.layer_index)


def test_the_penalty_is_the_sum_of_what_components_ask_for(build: Build) -> None:
    assert build().penalty().item() == 0
    model = build(attention=Penalised, n_layers=3)
    model.penalty().backward()
    assert model.penalty().item() == 0.5 * (1 + 2 + 3)
    blocks: list[Any] = list(model.blocks)
    assert [block.attention.core.share.grad.item() for block in blocks] == [1, 2, 3]


@pytest.mark.parametrize(
    ("axis", "option", "settings"),
    [
        ("feed_forward", "moe", {"balance_weight": 0.1, "sequence_weight": 0.1}),
        ("objective", "next_token", {"z_loss": 0.1}),
        ("objective", "multi_token", {}),
    ],
)
def test_what_was_asked_for_keeps_nothing_of_the_pass(
    axis: str, option: str, settings: dict[str, Any], build: Build, load_option: Callable[..., Any]
) -> None:
    """A copy of a model, as of weights to average, can be made between steps."""
    model, ids = build(**{axis: load_option(axis, option, **settings)}), tokens(2, 12)
    model(ids, targets=ids)
    assert model.penalty().requires_grad
    copy.deepcopy(model)


def test_every_option_is_causal_and_looks_back(
    build: Build, attention_option: str, activation_option: str, position_option: str
) -> None:
    parts = {"attention": attention_option, "activation": activation_option, "position": position_option}
    try:
        model = build(**parts, n_layers=layers_of(attention_option)).double()
    except ClashError:  # see the table of combinations below
        return
    perturb(model)
    model.train()  # dynamic_sparse must not see the future while it learns, either
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = tokens(1, 24)
    before = model(first)
    for place in (3, 12, 23):
        second = first.clone()
        second[0, place] = (second[0, place] + 1) % 11
        model.load_state_dict(state)
        after = model(second)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, place:], before[:, place:], atol=1e-6)


def test_without_causality_the_first_output_hears_of_later_tokens(build: Build, attention_option: str) -> None:
    model = build(attention=attention_option, causal=False).double().eval()
    perturb(model)
    first = tokens(1, 4)
    changed = [first.clone() for _ in range(3)]
    for place, ids in enumerate(changed, start=1):
        ids[0, place] = (ids[0, place] + 1) % 11
    assert any(not torch.allclose(model(ids)[:, 0], model(first)[:, 0], atol=1e-8) for ids in changed)


@pytest.fixture
def sparse_attention(attention_option: str, load_option: Callable[..., Any]) -> Any:
    """The option so that it leaves something out at the lengths here, which some hold to be too short for that.

    Where nothing is left out, hashing is not called, and the keys at the soft edge of a span, the only ones from which
    the span gets a gradient, do not exist.
    """
    short: dict[str, dict[str, Any]] = {
        "lsh": {"bucket_size": 4, "dense_below": 0},
        "dynamic": {"window": 16, "ramp": 8.0, "bucket_size": 4, "dense_below": 0},
    }
    return load_option("attention", attention_option, **short.get(attention_option, {}))


@pytest.mark.parametrize("length", [1, 2, 64])
def test_every_option_is_finite_and_trains_every_parameter(
    build: Build, attention_option: str, sparse_attention: Callable[..., Any], position_option: str, length: int
) -> None:
    parts = {"attention": sparse_attention, "position": position_option, "tie_embeddings": False}
    try:
        model = build(**parts, n_layers=layers_of(attention_option))
    except ClashError:
        return
    (model(tokens(2, length)).square().sum() + model.penalty()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A single position attends to itself whatever the queries and keys.
        if length > 2 and not name.endswith("key.bias"):  # a constant in the scores of a query cancels in its softmax
            assert parameter.grad.any(), name


def test_runs_on_the_meta_device(build: Build, any_option: tuple[str, str]) -> None:
    axis, option = any_option
    with torch.device("meta"):
        layers = 2 if axis in ("residual", "layer_fusion") else layers_of(option)
        model = build(**{"position": "rope", axis: option}, n_layers=layers)
        logits = model(torch.zeros(2, 64, dtype=torch.int64))
    assert logits.is_meta
    assert logits.shape == (2, 64, 11)
    logits.sum().backward()


def test_the_same_seed_and_tokens_give_the_same_logits(build: Build, attention_option: str) -> None:
    ids = tokens(2, 30)
    assert torch.equal(build(attention=attention_option).eval()(ids), build(attention=attention_option).eval()(ids))


def test_every_attention_differs_from_full(
    build: Build, attention_option: str, sparse_attention: Callable[..., Any]
) -> None:
    ids = tokens(2, 128)  # long enough for what the options come with to leave something out
    ours, full = (build(attention=option, max_length=128)(ids) for option in (sparse_attention, "full"))
    same = torch.equal(ours, full)
    assert same == (attention_option == "full")


def test_too_long_a_sequence_names_both_lengths(build: Build) -> None:
    with pytest.raises(ValueError, match="the sequence has 65 tokens, but the model was built for at most 64"):
        build()(tokens(1, 65))


def test_dropout_must_be_a_probability(build: Build) -> None:
    with pytest.raises(ValueError, match=r"model\.dropout must be at least 0 and below 1, got 1"):
        build(dropout=1.0)


def test_dropout_acts_in_training_only(build: Build) -> None:
    model, ids = build(dropout=0.5), tokens(2, 8)
    assert not torch.equal(model(ids), model(ids))
    assert torch.equal(model.eval()(ids), build().eval()(ids))


def test_tied_weights_are_counted_once_and_bias_can_be_left_out(build: Build) -> None:
    d, vocabulary, length, layers = 16, 11, 64, 2
    attention, feed_forward, norm = 4 * d * d, 8 * d * d, d
    matrices = vocabulary * d + length * d + layers * (attention + feed_forward + 2 * norm) + norm
    assert sum(p.numel() for p in build(bias=False).parameters()) == matrices
    assert sum(p.numel() for p in build(bias=False, tie_embeddings=False).parameters()) == matrices + vocabulary * d
    assert sum(p.numel() for p in build().parameters()) == matrices + layers * (4 * d + 4 * d + d + 2 * d) + d


def test_attention_adds_no_parameters_and_no_state(build: Build, attention_option: str) -> None:
    model = build(attention=attention_option)
    same = build(attention="full").state_dict().keys() == model.state_dict().keys()
    whose_point_they_are = {"dynamic", "mla", "mla_dsa", "nsa", "dsa", "csa", "hca", "gated_delta", "mamba2"}
    assert same == (attention_option not in whose_point_they_are)


class Resampled(FullAttention):
    def resample(self, step: int) -> None:
        self.step = step


def test_resample_reaches_every_layer(build: Build) -> None:
    model = build(attention=Resampled)
    model.resample(5)
    blocks: list[Any] = list(model.blocks)
    assert [block.attention.core.step for block in blocks] == [5, 5]


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_the_menu_of_sizes_builds(size: str, load_option: Callable[..., Any]) -> None:
    parts = {axis: load_option(axis, name) for axis, name in [("attention", "full"), ("activation", "gelu")]}
    with torch.device("meta"):
        model = load_option("model", size)(
            vocab_size=256, max_length=128, seed=0, position=load_option("position", "rope"), **parts
        )
    assert model.blocks[0].feed_forward.up.out_features == 4 * model.embedding.embedding_dim


@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_norms_stand_where_they_are_asked_for(
    build: Build, load_option: Callable[..., Any], norm: str, placement: str
) -> None:
    model: Any = build(norm=load_option("norm", norm, placement=placement), bias=False).double()
    perturb(model)

    def normal(x: Tensor, gain: Tensor) -> Tensor:
        if norm == "layer":
            x = x - x.mean(-1, keepdim=True)
        return gain * x / (x.square().mean(-1, keepdim=True) + (1e-5 if norm == "layer" else 1e-6)).sqrt()

    ids = tokens(2, 9)
    x = model.embedding(ids) + model.position.weight[:9]
    for block in model.blocks:
        one, two = block.attention_norm.weight, block.feed_forward_norm.weight
        if placement == "pre":
            x = x + block.attention(normal(x, one), model.position.rotate)
            x = x + block.feed_forward(normal(x, two))
        else:
            x = normal(x + block.attention(x, model.position.rotate), one)
            x = normal(x + block.feed_forward(x), two)
    x = normal(x, model.norm.weight) if placement == "pre" else x
    torch.testing.assert_close(model(ids), x @ model.head.weight.T)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"placement": "middle"}, "must be pre, post or sandwich"), ({"eps": 0.0}, "must be above 0")],
)
def test_norms_that_cannot_be(
    build: Build, load_option: Callable[..., Any], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        build(norm=load_option("norm", "rms", **settings))


def test_width_and_tying_in_numbers(build: Build) -> None:
    def count(**changes: object) -> int:
        return sum(p.numel() for p in build(**changes).parameters())

    tied = count()
    assert count(tie_embeddings=False) == tied + 11 * 16
    assert count(d_ff=65) == count(d_ff=64) + 2 * (16 + 1 + 16)  # two layers, with biases


def test_dropout_acts_in_training_alone(build: Build) -> None:
    plain, dropped = build(), build(dropout=0.5)
    ids = tokens(2, 9)
    assert torch.equal(plain.eval()(ids), dropped.eval()(ids))
    assert not torch.allclose(plain.train()(ids), dropped.train()(ids))


def test_who_cannot_do_with_whom(build: Build, menu: dict[str, list[str]]) -> None:
    """The table of docs/position.md."""
    refused = set()
    for attention in menu["attention"]:
        for position in menu["position"]:
            try:
                build(attention=attention, position=position)
            except ClashError:
                refused.add((position, attention))
    without_slopes = ("block_sparse", "mla_dsa", "nsa", "dsa", "csa", "hca", "selected", "gated_delta", "mamba2")
    assert refused == {("alibi", attention) for attention in without_slopes}


@pytest.mark.parametrize("causal", [True, False])
def test_sequences_longer_than_those_trained_on(build: Build, position_option: str, causal: bool) -> None:
    model = build(position=position_option, causal=causal)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(5):
        ids = tokens(4, 9, seed)
        torch.nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    long = tokens(2, 64)
    logits = model.eval()(long)
    assert logits.isfinite().all()
    if causal:  # what stands at the length of training is what it was there
        torch.testing.assert_close(logits[:, :8], model(long[:, :8]))
