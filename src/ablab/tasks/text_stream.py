"""Text of tokens as they come: what is whole of it, and none of what it is to stop before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what decoders give for bytes that are no character, or not yet
LONGEST_BROKEN = 3  # bytes that a character of UTF-8 can have at most before it is whole


class TextStream:
    """The text behind a prompt, in pieces, which together are what decoding all tokens at once gives.

    A character some of whose bytes are still to come is held back, and so is what may be the beginning of a stop
    string.

    Args:
        decode: the text of all tokens.
        stop: strings before the first of which the text ends: the one that is complete first, and of several that are
            so at the same character the longest.

    Attributes:
        prompt: its text.
        text: what has been given of the text behind it.
        stopped: a stop string has come; nothing more is given.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._decode, self._ids, self._stop = decode, list(prompt), stop
        self.prompt = decode(self._ids)
        self.text = ""
        self.stopped = False

    def put(self, tokens: Sequence[int]) -> str:
        """Take in more tokens; the text that is certain with them."""
        self._ids += tokens
        whole = self._decode(self._ids)
        if self.stopped or not whole.startswith(self.prompt + self.text):  # what comes next mends it
            return ""
        new = _without_broken_end(self._behind(whole))
        return self._give(new, held=max((_begun(new, stop) for stop in self._stop), default=0))

    def end(self) -> str:
        """No more tokens come; the text that was held back."""
        return "" if self.stopped else self._give(self._behind(self._decode(self._ids)), held=0)

    def _behind(self, whole: str) -> str:
        return whole[len(self.prompt) + len(self.text) :]

    def _give(self, new: str, held: int) -> str:
        found = [(place + len(stop), place) for stop in self._stop if (place := new.find(stop)) >= 0]
        self.stopped = bool(found)
        given = new[: min(found)[1] if found else len(new) - held]
        self.text += given
        return given


def _without_broken_end(text: str) -> str:
    end = len(text)
    while end and text[end - 1] == BROKEN and len(text) - end < LONGEST_BROKEN:
        end -= 1
    return text[:end]


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of the text may be the beginning of a stop string."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
