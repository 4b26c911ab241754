"""Generation against one whole pass for each token of each sample by itself; and the tokens that modules guess."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ablab.model.decoding import Decoder
from ablab.model.drafting import Drafter
from ablab.model.generation import Generation, repeated_generators
from ablab.model.objective.multi_token import DepthModule, MultiToken
from ablab.model.sampling import GREEDY, Sampler, SettingError
from ablab.model.transformer import Transformer

Build = Callable[..., Transformer]
Load = Callable[..., Any]

LONGEST = 12  # tokens that a model takes
# Edges lie well within the samples; what a cache lets go of is of each kind: places, rings, states, open blocks.
ATTENTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "windowed": {"window": 3, "global_tokens": 1},
    "csa": {"block": 2, "window": 3, "keys": 2},
    "gated_delta": {"chunk": 4},
    "mamba2": {"chunk": 4},
    "mla": {},
    "selected": {"block": 2, "keys": 6, "window": 2},
    "lsh": {"bucket_size": 4, "buckets": 2, "dense_below": 0},
}
BY_LENGTH: dict[str, dict[str, Any]] = {
    "lsh": {"bucket_size": 2, "dense_below": 10},
    "dynamic": {"bucket_size": 2, "dense_below": 10, "window": 2, "ramp": 1.0},
}
PROMPTS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=14), min_size=1, max_size=4)
SAMPLERS = st.sampled_from([GREEDY, Sampler(temperature=0.5), Sampler(top_p=0.7), Sampler(temperature=2, top_k=3)])


@pytest.fixture(scope="module")
def made(build: Build, load_option: Load) -> Callable[[str, int], Transformer]:
    """made("full", 2): a model in float64 with so many modules that guess, whose numbers are large enough to tell."""

    @cache
    def make(attention: str, depth: int) -> Transformer:
        objective = load_option("objective", "multi_token", depth=depth) if depth else "next_token"
        option, _, by_length = attention.partition(" ")
        mixing = load_option("attention", option, **(BY_LENGTH if by_length else ATTENTIONS)[option])
        model = build(
            attention=mixing, objective=objective, vocab_size=5, max_length=LONGEST, n_layers=2, position="rope"
        ).double()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_((0.25 if parameter.ndim > 1 else 0.1) * noise)
        return model.eval()

    return make


@torch.no_grad()
def one_by_one(model: Transformer, prompt: Sequence[int], count: int, sampler: Sampler, draws: Any) -> list[int]:
    """The whole of what the model can see, for each token again."""
    ids = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([ids[-model.max_length :]]))[0, -1]
        ids.append(sampler.choose(logits, draws))
    return ids


def generated(model: Transformer, prompts: Sequence[Sequence[int]], **changes: Any) -> Generation:
    generation = Generation(model, [torch.tensor(prompt) for prompt in prompts], **changes)
    while generation.unfinished:
        generation.step()
    return generation


@settings(max_examples=15, deadline=None)
@given(prompts=PROMPTS, count=st.integers(0, 10), sampler=SAMPLERS, seed=st.integers(0, 3), data=st.data())
def test_a_batch_is_each_prompt_by_itself(
    prompts: list[list[int]],
    count: int,
    sampler: Sampler,
    seed: int,
    data: st.DataObject,
    made: Callable[[str, int], Transformer],
) -> None:
    """Shorter and longer than what the model takes, with neighbours that end within it and go beyond it."""
    model = made(data.draw(st.sampled_from(["full", "windowed", "lsh"])), 0)
    draws = repeated_generators(prompts, seed)
    expected = [
        one_by_one(model, prompt, count, sampler, draw)
        for prompt, draw in zip(prompts, repeated_generators(prompts, seed), strict=True)
    ]
    generation = generated(model, prompts, max_new_tokens=count, sampler=sampler, generators=draws)
    assert generation.ids == expected
    assert generation.effort.slid == any(len(ids) - 1 > LONGEST for ids in expected if count)


@settings(max_examples=12, deadline=None)
@given(prompts=PROMPTS, count=st.integers(1, 10), sampler=SAMPLERS, depth=st.integers(1, 3))
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_guesses_change_nothing(
    attention: str,
    prompts: list[list[int]],
    count: int,
    sampler: Sampler,
    depth: int,
    made: Callable[[str, int], Transformer],
) -> None:
    """Whatever the layers keep: single tokens are let go of, or everything since the last pass, and given again."""
    model = made(attention, 3)
    if next(model.layers())[1].attention.new_cache(1, LONGEST) is None:
        with pytest.raises(ValueError, match="has no cache: they cannot guess"):
            generated(model, [[0]], max_new_tokens=3, draft=depth)
        return
    plain = generated(model, prompts, max_new_tokens=count, sampler=sampler)
    drafted = generated(model, prompts, max_new_tokens=count, sampler=sampler, draft=depth)
    assert drafted.ids == plain.ids
    effort = drafted.effort
    assert 0 <= effort.accepted <= effort.drafted <= depth * effort.passes
    assert effort.read + effort.written >= 0
    assert effort.written == plain.effort.written == len(prompts) * (count - 1)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_guesses_are_those_of_the_modules(
    attention: str, made: Callable[[str, int], Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of each guess against modules that compute the whole sequence, one behind the other."""
    model, compared = made(attention, 3), 0
    if next(model.layers())[1].attention.new_cache(1, LONGEST) is None:
        pytest.skip("has no cache")
    draft, logits, found = Drafter.draft, Drafter._logits, list[Tensor]()

    def kept(self: Drafter, *arguments: Any) -> Tensor:
        found.append(logits(self, *arguments))
        return found[-1]

    def checked(self: Drafter, known: Sequence[Sequence[int]]) -> list[list[int]]:
        nonlocal compared
        found.clear()
        drafts = draft(self, known)
        for row, (tokens, guesses) in enumerate(zip(known, drafts, strict=True)):
            assert bool(guesses) == bool(tokens)
            for k, expected in enumerate(whole_guesses(model, tokens, guesses) if tokens else ()):
                torch.testing.assert_close(found[k][row], expected, rtol=0, atol=1e-9)
                compared += 1
        return drafts

    monkeypatch.setattr(Drafter, "draft", checked)
    monkeypatch.setattr(Drafter, "_logits", kept)
    generated(model, [[0], [1, 2, 3, 4], [3, 3]], max_new_tokens=10, draft=3)
    assert compared > 20


@torch.no_grad()
def whole_guesses(model: Transformer, known: Sequence[int], guesses: Sequence[int]) -> Iterator[Tensor]:
    objective, ids = model.objective, torch.tensor([list(known)])
    assert isinstance(objective, MultiToken)
    x, mask = model.enter(ids[:, :-1])
    hidden = model.hidden(model.through(range(2), [model.ends.begin(x)], model.context(ids[:, :-1], mask)), mask)
    for k, module in enumerate(objective.depths, 1):
        assert isinstance(module, DepthModule)
        later = torch.tensor([[*known, *guesses[: k - 1]]])[:, k:]
        hidden = module(hidden, model.embedding(later), model.context(later, None))
        yield model.logits(module.norm(hidden))[0, -1]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_tokens_that_were_taken_back_leave_no_trace(attention: str, made: Callable[[str, int], Transformer]) -> None:
    """Others are read in their place, and what comes out is that of samples that never had them."""
    model, draw = made(attention, 0), torch.Generator().manual_seed(2)
    ids = torch.randint(5, (3, LONGEST), generator=draw)
    decoder = Decoder(model, batch=3)
    decoder.read(ids[:, :4], torch.tensor([4, 3, 1]))
    have = torch.tensor([4, 3, 1])
    while have.max() < LONGEST:
        mark, guessed = decoder.mark(), torch.randint(5, (3, 4), generator=draw)
        counts = (LONGEST - have).clamp(max=4)
        right = torch.minimum(torch.tensor([0, 2, 4]), counts)  # of the guesses
        for row in range(3):
            guessed[row, : right[row]] = ids[row, have[row] : have[row] + right[row]]
        decoder.read(guessed, counts)
        have = decoder.take_back(mark, have + right)
        assert bool((have == decoder.lengths).all())
        size = int((LONGEST - have).clamp(max=2).max())
        counts = (LONGEST - have).clamp(max=size)
        given = torch.stack([ids[row].roll(-int(have[row]))[:size] for row in range(3)])
        logits = decoder.extend(given, counts)
        for row in range(3):
            end = int(have[row] + counts[row])
            with torch.no_grad():
                whole = model(ids[row : row + 1, :end])[0, int(have[row]) :]
            torch.testing.assert_close(logits[row, : counts[row]], whole, rtol=0, atol=1e-9)
        have = have + counts


def test_perfect_guesses_are_all_accepted(
    made: Callable[[str, int], Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made("windowed", 3)
    [ids] = generated(model, [[1]], max_new_tokens=LONGEST - 1).ids
    monkeypatch.setattr(Drafter, "draft", lambda self, known: [ids[len(each) :][:3] for each in known])
    generation = generated(model, [[1]], max_new_tokens=LONGEST - 1, draft=3)
    assert generation.ids == [ids]
    effort = generation.effort
    assert (effort.passes, effort.drafted, effort.accepted) == (3, 7, 7)  # 1 token, 1 + 3, 1 + 3, and 1 + 1


class Kept:
    """The likeliest token, and the logits that it was chosen by."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        self.logits.append(logits.clone())
        return GREEDY.choose(logits, generator)


@pytest.mark.parametrize("option", ["lsh", "dynamic"])
def test_no_text_hangs_on_neighbours_by_how_many_buckets_there_are(
    option: str, made: Callable[[str, int], Transformer]
) -> None:
    """Nor on how many tokens are to come: it is hashed as the longest sequence is."""
    model = made(f"{option} by length", 0)
    prompt, neighbour = [3, 1, 4, 1, 0, 2], [0, 2, 1, 3, 4, 0, 1, 2, 2]

    def first(prompts: Sequence[Sequence[int]], count: int) -> Tensor:
        seen = Kept()
        Generation(
            model, [torch.tensor(ids) for ids in prompts], max_new_tokens=count, sampler=cast(Sampler, seen)
        ).step()
        return seen.logits[0]

    alone = first([prompt], 1)
    assert (first([prompt, neighbour], 1) - alone).abs().max() < 1e-9
    assert (first([prompt], 9) - alone).abs().max() < 1e-9


def test_the_same_prompt_twice_has_other_draws(made: Callable[[str, int], Transformer]) -> None:
    sampler = Sampler(temperature=3)
    alone = generated(made("full", 0), [[1, 2]], max_new_tokens=9, sampler=sampler).ids
    several = generated(made("full", 0), [[3], [1, 2], [1, 2]], max_new_tokens=9, sampler=sampler).ids
    assert several[1] == alone[0] != several[2]


def test_a_sample_ends_behind_its_last_token(made: Callable[[str, int], Transformer]) -> None:
    model = made("full", 3)
    ids = torch.tensor([[0, 1], [2, 2]])
    whole = model.generate(ids, max_new_tokens=8)
    assert whole.shape == (2, 10)
    eos = int(whole[0, 4])
    for draft in (0, 2):
        ended = model.generate(ids, max_new_tokens=8, eos_token_id=eos, draft=draft)
        for row, full in zip(ended.tolist(), whole.tolist(), strict=True):
            end = full.index(eos, 2) + 1 if eos in full[2:] else len(full)
            assert row == [*full[:end], *[full[end - 1]] * (ended.shape[1] - end)]
        each = model.generate(list(ids), max_new_tokens=8, eos_token_id=[eos], draft=draft)
        assert [len(tokens) for tokens in each] == [
            full.index(eos, 2) + 1 if eos in full[2:] else 10 for full in whole.tolist()
        ]


def test_the_method_of_a_model(made: Callable[[str, int], Transformer]) -> None:
    model = made("full", 0)
    model.train()
    state = torch.get_rng_state()
    prompts = [torch.tensor([1, 2, 3]), torch.tensor([4])]
    drawn = model.generate(prompts, max_new_tokens=6, temperature=2.0, seed=5)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert [tokens.tolist() for tokens in drawn] == [
        one_by_one(model.eval(), prompt.tolist(), 6, Sampler(temperature=2), torch.Generator().manual_seed(5))
        for prompt in prompts
    ]
    again = model.generate(prompts, max_new_tokens=6, temperature=2.0, do_sample=True, seed=5)
    assert all(torch.equal(*each) for each in zip(drawn, again, strict=True))
    greedy = model.generate(prompts[0][None], max_new_tokens=3)
    assert torch.equal(greedy, model.generate(prompts[0][None], max_new_tokens=3, do_sample=False))
    assert greedy.tolist() == [one_by_one(model, [1, 2, 3], 3, GREEDY, torch.Generator())]


@pytest.mark.parametrize(
    ("ids", "changes", "words"),
    [
        ([[0]], {"max_new_tokens": -1}, "max_new_tokens=-1: must be at least 0"),
        ([[0]], {"top_k": 3, "do_sample": False}, "change nothing where do_sample=False"),
        ([[0]], {"draft": 1}, "guesses 0 tokens ahead at most"),
        ([[0]], {"draft": -1}, "draft=-1: must be at least 0"),
        ([[0]], {"top_p": 2.0}, r"top_p=2\.0: must lie in 0\.\.1"),
        ([[]], {}, "a prompt has no token"),
        ([0, 1], {}, r"input_ids must be \(B, T\)"),
        ([[0, 999]], {}, r"input_ids must be whole numbers from 0 to \d+, the model's tokens"),
        ([[0, -1]], {}, r"input_ids must be whole numbers from 0 to"),
    ],
)
def test_what_cannot_be(ids: Any, changes: dict[str, Any], words: str, made: Callable[[str, int], Transformer]) -> None:
    with pytest.raises(ValueError, match=words):
        made("full", 0).generate(torch.tensor(ids, dtype=torch.int64), **({"max_new_tokens": 2} | changes))


def test_models_that_cannot_go_on(build: Build) -> None:
    with pytest.raises(ValueError, match="not causal"):
        build(causal=False).generate(torch.tensor([[1]]), max_new_tokens=0)
    with pytest.raises(ValueError, match="one answer for a whole input"):
        build(causal=False, pooled=True).generate(torch.tensor([[1]]), max_new_tokens=1)
    with pytest.raises(ValueError, match="input_ids must be whole numbers"):
        build().generate(torch.tensor([[0.5]]), max_new_tokens=1)
    with pytest.raises(SettingError):
        build().generate(torch.tensor([[1]]), max_new_tokens=1, temperature=-1.0)


def test_what_stands_for_no_token_is_never_chosen(build: Build) -> None:
    model = build(padding=3).eval()
    with torch.no_grad():
        model.head.weight[3] = 100 * model.head.weight[3].sign()  # far the likeliest, or far the least likely
    found = {
        token
        for seed in range(5)
        for token in model.generate(torch.tensor([[1, 2]]), max_new_tokens=70, temperature=1e30, seed=seed)[0].tolist()
    }
    assert found == set(range(11)) - {3}
    with pytest.raises(ValueError, match="the token 3, which stands for none"):
        model.generate(torch.tensor([[1, 3]]), max_new_tokens=1)


def test_logits_that_are_no_numbers(build: Build) -> None:
    model = build()
    with torch.no_grad():
        model.embedding.weight.fill_(torch.nan)  # type: ignore[operator]
    with pytest.raises(ValueError, match="did its training diverge"):
        model.generate(Tensor([[1]]).long(), max_new_tokens=1)
