"""What counts as a secret, and that nothing else does."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablab.config import conf_folder, fingerprint
from ablab.config.redact import HIDDEN, filled_in, is_secret, redact, redact_text, secrets_in
from ablab.config.run_config import RunConfig
from ablab.errors import UserError

SECRETS = [
    "task.token",
    "logger.wandb.api_key",
    "hf_token",
    "WANDB_API_KEY",
    "HF_TOKEN",
    "apiKey",
    "accessToken",
    "password",
    "db_passwd",
    "key",
    "aws_secret_access_key",
    "credentials.user",
    "auth.token",
    "GITHUB_TOKEN",
    "secretKey",
    "+logger.x.api-key",
    "x@token",
]
OTHERS = [
    "task.tokenizer",
    "n_tokens",
    "task.eval_tokens",
    "d_key",
    "attention.keys",
    "global_tokens",
    "pad_token",
    "next_token",
    "multi_token",
    "task.text_key",
    "state_key",
    "tokens_per_second",
    "monkey",
    "tokenize",
    "hockey.key_size",
    "logger.wandb.project",
    "key_value_heads",
    "n_key",
]


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_is_known_by_a_word_of_its_key(key: str) -> None:
    assert is_secret(key, "abc")
    assert redact_text(f"ablab -m {key}=abc seed=1") == f"ablab -m {key}={HIDDEN} seed=1"
    assert not is_secret(key, None)


@pytest.mark.parametrize("key", OTHERS)
def test_other_keys_hide_nothing(key: str) -> None:
    assert not is_secret(key, "abc")
    assert redact_text(f"{key}=abc") == f"{key}=abc"


@pytest.mark.parametrize("value", [64, 0.5, True, None])
def test_sizes_are_no_secrets(value: Any) -> None:
    assert redact({"attention": {"key": value, "token": value}}) == {"attention": {"key": value, "token": value}}


def test_no_setting_of_ours_is_a_secret() -> None:
    """Nor any text of a study: what is written is what was asked for."""
    for path in [*conf_folder().rglob("*.yaml"), *conf_folder().parent.glob("experiments/study/*.yaml")]:
        text = path.read_text(encoding="utf-8")
        for key in re.findall(r"^\s*([\w.]+):", text, re.MULTILINE):
            assert not is_secret(key, "text"), f"{path}: {key}"


@given(
    secret=st.text("abcdefXYZ0123456789", min_size=8, max_size=20),
    place=st.sampled_from(["{}", "x/{}/y", "a={}", "--password={}", "went to https://u:{}@host", "{}{}"]),
)
def test_a_secret_is_hidden_wherever_it_stands(secret: str, place: str) -> None:
    text = place.replace("{}", secret)
    data = {"logger": {"mine": {"api_key": secret}}, "overrides": [text], "deep": [{"a": (text, {"b": text})}]}
    assert secret not in str(redact(data))
    assert secret not in redact_text(text, secrets_in(data))


def test_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse")
    monkeypatch.setenv("SOME_TOKENIZER", "tokenizer.json")
    assert redact({"a": "x correct-horse", "b": "tokenizer.json"}) == {"a": f"x {HIDDEN}", "b": "tokenizer.json"}


@pytest.mark.parametrize("name", ["LOGGER_WANDB_API_KEY", "WANDB_API_KEY", "API_KEY"])
def test_what_was_left_out_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("LOGGER_WANDB_API_KEY", "WANDB_API_KEY", "API_KEY"):
        monkeypatch.delenv(each, raising=False)
    options: dict[str, Any] = {"logger": {"wandb": {"api_key": HIDDEN}}, "task": {"seq_len": 3}}
    with pytest.raises(
        UserError, match=r"logger\.wandb\.api_key: is a secret.* environment variable LOGGER_WANDB_API_KEY"
    ):
        filled_in(options)
    monkeypatch.setenv(name, "correct-horse")
    assert filled_in(options) == {"logger": {"wandb": {"api_key": "correct-horse"}}, "task": {"seq_len": 3}}
    with pytest.raises(UserError, match="is a secret"):  # a folder does not ask for more than settings
        filled_in({"logger": {"wandb": {"tags": {"api_key": HIDDEN}}}})


def test_identity_leaves_secrets_out() -> None:
    def identity(**task: Any) -> str:
        return fingerprint(RunConfig(options={"task": task}, axes={}))

    assert identity(token="correct-horse") == identity(token="battery-staple") == identity(token=HIDDEN)
    assert identity(tokenizer="bytes") != identity(tokenizer="chars")
