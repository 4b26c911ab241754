"""Text through a tokenizer and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.tasks.tokenizers import ByteTokenizer, CharTokenizer, tokenizer_from_state

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT)
def test_bytes_are_utf8(text: str) -> None:
    ids = ByteTokenizer().encode(text)
    assert ids.tolist() == list(text.encode())
    assert ByteTokenizer().decode(ids.tolist()) == text


def test_bytes_that_are_no_text_can_be_shown() -> None:
    assert ByteTokenizer().decode([0x61, 0xFF, 0x62]) == "a\ufffdb"


@given(TEXT)
def test_chars_are_ranks_in_the_sorted_vocabulary(text: str) -> None:
    tokenizer = CharTokenizer.of(text)
    alphabet = sorted(set(text))
    assert tokenizer.vocab_size == len(alphabet)
    assert tokenizer.encode(text).tolist() == [alphabet.index(character) for character in text]
    assert tokenizer.decode(tokenizer.encode(text).tolist()) == text


@given(TEXT)
def test_bytes_of_the_tokens_add_up_to_the_file(text: str) -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer.of(text)):
        assert tokenizer.bytes_per_token()[tokenizer.encode(text)].sum() == len(text.encode())


@pytest.mark.parametrize("character", ["a", "c", "~", "\N{SNOWMAN}", "\ud800"])
def test_an_unknown_character_is_named(character: str) -> None:
    with pytest.raises(ValueError, match="not among the 3 characters") as error:
        CharTokenizer.of("bdx").encode(f"bd{character}x")
    assert repr(character) in str(error.value)


@pytest.mark.parametrize(("size", "itemsize"), [(256, 1), (257, 2), (70_000, 4)])
def test_large_vocabularies_keep_their_ids(size: int, itemsize: int) -> None:
    text = "".join(chr(i) for i in range(0xE000, 0xE000 + size))
    ids = CharTokenizer.of(text).encode(text)
    assert ids.tolist() == list(range(size))
    assert ids.itemsize == itemsize


@given(TEXT)
def test_state_brings_the_tokenizer_back(text: str) -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer.of(text)):
        assert tokenizer_from_state(tokenizer.state()) == tokenizer
