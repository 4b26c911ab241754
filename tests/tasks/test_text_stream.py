"""Text as it comes, against the whole text at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.tasks.text_stream import TextStream

TEXT = st.text(alphabet="ab\u20ac\N{GRINNING FACE}\n", max_size=12)
STOPS = st.lists(st.text(alphabet="ab\u20ac", min_size=1, max_size=4), max_size=3)


def of_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode("utf-8", errors="replace")


def before_stop(text: str, stops: Sequence[str]) -> str:
    """Character by character: what stands before the first stop string that is complete."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=300, deadline=None)
@given(prompt=TEXT, text=TEXT | st.binary(max_size=8), stops=STOPS, cuts=st.lists(st.integers(0, 40), max_size=30))
def test_pieces_are_the_text_before_the_first_stop(
    prompt: str, text: str | bytes, stops: list[str], cuts: list[int]
) -> None:
    data = text.encode() if isinstance(text, str) else text
    stream = TextStream(of_bytes, list(prompt.encode()), stops)
    given = [stream.put(list(piece)) for piece in pieces(data, cuts)]
    whole = of_bytes([*prompt.encode(), *data])[len(prompt) :]
    for count in range(len(given)):  # nothing is printed that turns out otherwise
        assert before_stop(whole, stops).startswith("".join(given[:count]))
    assert "".join(given) + stream.end() == before_stop(whole, stops) == stream.text
    assert stream.stopped == any(stop in whole for stop in stops)
    assert stream.put([97]) == "" or not stream.stopped


def test_a_character_is_held_back_until_it_is_whole() -> None:
    stream = TextStream(of_bytes, [])
    given = [stream.put([byte]) for byte in "a\u20acb".encode()]
    assert given == ["a", "", "", "\u20ac", "b"]
    assert stream.put([0xE2]) == ""
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


def test_a_stop_string_in_pieces_leaves_no_trace() -> None:
    stream = TextStream(of_bytes, [], ["</end>"])
    given = [stream.put([byte]) for byte in b"x</en</end>y"]
    assert "".join(given) == "x</en"
    assert stream.stopped


def test_a_decoder_that_changes_its_mind_is_waited_for() -> None:
    """As one whose bytes are all replaced as long as a run of them is not whole."""

    def decode(ids: Sequence[int]) -> str:
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "\N{REPLACEMENT CHARACTER}" * len(ids)

    stream = TextStream(decode, [])
    assert [stream.put([byte]) for byte in "a\u20acb".encode()] == ["a", "", "", "\u20ac", "b"]
