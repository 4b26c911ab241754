"""Subwords: byte pairs trained here, and tokenizers of others in a file."""

from __future__ import annotations

import pickle
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tokenizers as hf
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablab.errors import UserError
from ablab.tasks.tokenizers import SubwordTokenizer, tokenizer_from_state
from ablab.tasks.tokenizers.choice import TokenizerChoice
from ablab.tasks.tokenizers.subwords import END

WORDS = "the cat sat on the mat and then the cat ate the rat that sat on the hat"
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.lists(
    st.sampled_from(["the", " cat", "\n", END, "\N{SNOWMAN}", "  ", "é", "\0"])
).map("".join)


@cache
def bpe(vocab_size: int = 280) -> SubwordTokenizer:
    return SubwordTokenizer.bpe([WORDS, "the \N{SNOWMAN} man"] * 3, vocab_size)


def metaspace(**settings: Any) -> hf.Tokenizer:
    """As SentencePiece's byte pairs with a fall back to bytes: spaces are part of words, unknown characters bytes."""
    vocabulary = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "th", "▁the", "▁th"]
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e")]
    model = hf.models.BPE({t: i for i, t in enumerate(vocabulary)}, merges, byte_fallback=True, unk_token="<unk>")
    made = hf.Tokenizer(model)
    made.pre_tokenizer = hf.pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = hf.decoders.Sequence(
        [
            hf.decoders.Replace("▁", " "),
            hf.decoders.ByteFallback(),
            hf.decoders.Fuse(),
            hf.decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<unk>", "</s>"])
    return made


def wordpiece() -> hf.Tokenizer:
    """As BERT's: parts of words, special tokens around a text, and a limit of length."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "##s", "sat", "a"]
    made = hf.Tokenizer(hf.models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.pre_tokenizer = hf.pre_tokenizers.Whitespace()
    made.decoder = hf.decoders.WordPiece()
    made.add_special_tokens(vocabulary[:4])
    made.post_processor = hf.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(2)
    made.enable_padding(length=9)
    return made


@settings(deadline=None)  # the first trains
@given(TEXT)
def test_byte_pairs_lose_nothing(text: str) -> None:
    ids = bpe().encode(text)
    assert bpe().decode(ids.tolist()) == text
    assert bpe().encode_bytes(text.encode()).tolist() == ids.tolist()
    assert bpe().bytes_per_token()[ids].sum() == len(text.encode())


def test_byte_pairs_join_what_is_frequent() -> None:
    assert [bpe().decode([i]) for i in bpe().encode("the cat")] == ["the", " cat"]
    assert bpe().vocab_size == 280
    assert bpe(100_000).vocab_size < 300  # there is no more to join
    assert bpe(257).encode("the").tolist() != bpe().encode("the").tolist()
    assert len(bpe(257).encode("the")) == 3


def test_a_text_behind_which_another_begins() -> None:
    assert bpe().decode(bpe().separator().tolist()) == END
    assert bpe().bytes_per_token()[bpe().separator()].sum() == 1  # as a newline
    assert bpe().separator()[0] not in bpe().encode(f"a{END}b")


def test_a_long_text_goes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bpe().encode(WORDS).tolist()
    monkeypatch.setattr("ablab.tasks.tokenizers.subwords._PIECE", 10)
    pieces = bpe().encode(WORDS)
    assert bpe().decode(pieces.tolist()) == WORDS
    assert len(pieces) > len(whole)


def test_training_twice_gives_the_same() -> None:
    assert SubwordTokenizer.bpe([WORDS], 290) == SubwordTokenizer.bpe([WORDS], 290)
    assert SubwordTokenizer.bpe([WORDS], 290) != SubwordTokenizer.bpe([WORDS], 280)


@pytest.mark.parametrize("make", [bpe, lambda: SubwordTokenizer(wordpiece().to_str())])
def test_state_brings_the_tokenizer_back(make: Any, tmp_path: Path) -> None:
    torch.save(make().state(), tmp_path / "state.pt")
    again = tokenizer_from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again == make() == pickle.loads(pickle.dumps(make()))
    assert again.encode(f"the cats {END}").tolist() == make().encode(f"the cats {END}").tolist()


def test_ids_above_a_byte_keep_their_value() -> None:
    assert bpe().encode(WORDS).itemsize == 2
    assert bpe().encode("the").max() > 255


def test_half_a_character_is_a_mistake_in_the_text() -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        bpe().encode("a\ud800")


def test_spaces_and_bytes_of_other_vocabularies_count() -> None:
    tokenizer = SubwordTokenizer(metaspace().to_str())
    text = "the the\N{SNOWMAN}"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids.tolist()) == text
    # One more: a space that this tokenizer puts in front of the text.
    assert tokenizer.bytes_per_token()[ids].sum() == len(text.encode()) + 1
    assert tokenizer.decode(tokenizer.separator().tolist()) == "</s>"


def test_what_a_published_file_asks_for_does_not_touch_the_text() -> None:
    """Neither its limit of length, nor filling up, nor tokens around a text."""
    tokenizer = SubwordTokenizer(wordpiece().to_str())
    assert tokenizer.encode("the cats sat").tolist() == [4, 5, 6, 7]
    assert tokenizer.bytes_per_token().tolist() == [0, 0, 0, 1, 4, 4, 1, 4, 2]
    assert tokenizer.separator().tolist() == [3]


def test_ids_may_have_gaps() -> None:
    made = hf.Tokenizer(hf.models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    tokenizer = SubwordTokenizer(made.to_str())
    assert tokenizer.vocab_size == 8
    assert tokenizer.bytes_per_token().shape == (8,)


def test_a_pretrained_one_is_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    wordpiece().save(str(tmp_path / "tokenizer.json"))
    for name in (tmp_path, tmp_path / "tokenizer.json"):
        choice = TokenizerChoice(str(name), 300)
        assert choice.make(training=list, corpus=list) == SubwordTokenizer(wordpiece().to_str())
    other = TokenizerChoice("bpe", 300).identity()
    assert choice.identity() == TokenizerChoice(str(tmp_path), 400).identity() != other


def test_who_sees_which_texts() -> None:
    texts = {"training": lambda: ["the the the"], "corpus": lambda: ["the the the", "zebra zebra zebra"]}
    trained = TokenizerChoice("bpe", 300).make(**texts)
    assert len(trained.encode("zebra")) == 5  # nothing was joined
    characters = TokenizerChoice("chars", 300).make(**texts)
    assert characters.vocab_size == len(set("the zebra"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nobody/nothing", "task.tokenizer=nobody/nothing: neither bytes, chars, bpe nor a file, and cannot be had"),
        ("{}/no.json", "no.json: no such file; mend task.tokenizer"),
        ("{}/bad.json", r"bad.json: cannot be used \(not the JSON of a tokenizer"),
    ],
)
def test_a_tokenizer_that_is_not_there(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "bad.json").write_text('{"model": 3}')
    with pytest.raises(UserError, match=says) as caught:
        TokenizerChoice(name.format(tmp_path), 300).identity()
    assert "\n" not in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"needs the library tokenizers: pip install 'ablab\[hf\]'"):
        SubwordTokenizer.bpe(["a"], 300)
