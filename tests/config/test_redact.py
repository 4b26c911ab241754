"""What counts as a secret, and that nothing else does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ablab.config import conf_folder, fingerprint
from ablab.config.overrides import canonical
from ablab.config.plain_values import HIDDEN
from ablab.config.redact import (
    command_filled_in,
    filled_in,
    is_secret,
    redact,
    redact_override,
    redact_text,
    redact_yaml,
    secrets_in,
)
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


@pytest.mark.parametrize("name", ["api_key", "api.key", "auth.token", "auth-token", "authToken", "hf_token"])
def test_a_word_is_a_secret_under_what_a_service_calls_it(name: str) -> None:
    assert is_secret(f"attention.{name}", "sesame")
    assert not is_secret("attention.token", "sesame")


PHRASES = ["my secret pass phrase", r"abc\,defghij", "'my secret, and \\'yours'", "[a b,c]", "a&b c", "{a:b c,d: e}"]


@pytest.mark.parametrize("value", PHRASES)
@pytest.mark.parametrize("key", ["logger.wandb.passphrase", "+activation.api_key", "++x.password"])
def test_the_secret_of_an_override_is_all_of_its_value(key: str, value: str) -> None:
    word = f"{key}={value}"
    assert redact_override(word) == f"{key}={HIDDEN}"
    assert redact(["-m", word, "seed=0,1"]) == ["-m", f"{key}={HIDDEN}", "seed=0,1"]
    assert redact({"overrides": [word]}) == {"overrides": [f"{key}={HIDDEN}"]}


def test_a_text_about_a_command_tells_none_of_its_secrets() -> None:
    for value in PHRASES[:3]:
        word = f"logger.wandb.passphrase={value}"
        for text in (f"cannot parse '{word}'", f"{canonical(value)} is refused"):
            hidden = redact_text(text, secrets_in(["-m", word]))
            assert not {"secret", "phrase", "defghij", "yours"} & set(re.findall(r"\w+", hidden)), hidden


def test_the_secret_of_an_entry_in_an_override_ends_with_the_entry() -> None:
    word = r"logger.wandb={api_key: my secret\, phrase,project:mine}"
    assert redact_override(word) == f"logger.wandb={{api_key: {HIDDEN},project:mine}}"


def test_of_secrets_that_begin_alike_the_longer_one_is_hidden_whole() -> None:
    known = frozenset(f"abcdefgh{'1234secret'[:length]}" for length in range(11))
    assert redact_text("x abcdefgh1234secret y", known) == f"x {HIDDEN} y"


BLOCKS = """\
# @package _global_
logger:
  password: |  # of mine
    correct horse

    battery
  user: me
  api_key: >-
    correct horse
    battery
mine:
  - token:
      correct
      horse
  - hf_token: &t "correct
      horse"
  - again: *t
  - {text: &b "{correct: horse}", password: *b, further: *b}
  - {secret: 'correct', key: 64, pad_token: a, token: "${oc.env:HORSE}"}
  - api_key: [correct, horse]
  - credential:
      name: horse
  - token: null
  - words: ['logger.wandb={api_key: correct, mode: offline}', password=horse]
last_key: horse
password: |
  battery"""


def test_a_secret_of_many_lines_is_hidden_in_a_config_file() -> None:
    text = redact_yaml(BLOCKS)
    found = yaml.safe_load(text)
    assert found["logger"] == {"password": HIDDEN, "user": "me", "api_key": HIDDEN}
    assert found["mine"] == [
        {"token": HIDDEN},
        {"hf_token": HIDDEN},
        {"again": HIDDEN},
        {"text": HIDDEN, "password": HIDDEN, "further": HIDDEN},
        {"secret": HIDDEN, "key": 64, "pad_token": "a", "token": HIDDEN},
        {"api_key": [HIDDEN, HIDDEN]},
        {"credential": {"name": HIDDEN}},
        {"token": None},
        {"words": [f"logger.wandb={{api_key: {HIDDEN}, mode: offline}}", f"password={HIDDEN}"]},
    ]
    assert (found["last_key"], found["password"]) == ("horse", HIDDEN)
    assert text.startswith("# @package _global_\n")
    assert redact_yaml(text) == text


def test_a_file_that_is_no_config_yet_is_without_the_secrets_of_its_lines() -> None:
    assert redact_yaml("a: [\ntoken: correct horse\n") == f"a: [\ntoken: '{HIDDEN}'\n"


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


def test_a_place_is_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or the identity of a run would be another one in a shell that has SSH_KEY=/home/me."""
    config = RunConfig(options={"task": {"path": f"{tmp_path}/corpus"}}, axes={})
    before = fingerprint(config)
    monkeypatch.setenv("SSH_KEY", str(tmp_path))
    assert (fingerprint(config), config.shown()["task"]) == (before, {"path": f"{tmp_path}/corpus"})
    monkeypatch.setenv("SSH_KEY", "/correct-horse/battery+staple")  # a key may begin so
    assert redact_text("x /correct-horse/battery+staple") == f"x {HIDDEN}"


def test_the_secrets_of_a_command_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIVATION_API_KEY", raising=False)
    monkeypatch.delenv("API_KEY", raising=False)
    words = ["-m", "seed=0,1", f"+activation.api_key={HIDDEN}"]
    with pytest.raises(UserError, match=r"^activation\.api_key: is a secret.* environment variable ACTIVATION_API_KEY"):
        command_filled_in(words)
    monkeypatch.setenv("ACTIVATION_API_KEY", "correct, 'horse'")
    assert command_filled_in(words) == ["-m", "seed=0,1", r"+activation.api_key='correct, \'horse\''"]
    with pytest.raises(UserError, match=r"^question=.*: held a secret, .*: give the command of the study again"):
        command_filled_in([f"question=Is {HIDDEN} in it?"])


SERVICE = ["hf_ErFmYpQzkd0LxWb8", "0d9c3f41aa7be25560d9c3f41aa7be2556000000"]


def identity(**options: Any) -> str:
    return fingerprint(RunConfig(options=options, axes={}))


def test_identity_leaves_secrets_out() -> None:
    """Where there can be one: of loggers and callbacks any, elsewhere what only a service gives, and all passwords."""
    for axis in ("logger", "callbacks"):
        assert identity(**{axis: {"mine": {"token": "correct-horse"}}}) == identity(
            **{axis: {"mine": {"token": HIDDEN}}}
        )
    for key in ("token", "api_key", "key"):
        assert identity(task={key: SERVICE[0]}) == identity(task={key: SERVICE[1]}) == identity(task={key: HIDDEN})
    assert identity(task={"password": "correct-horse"}) == identity(task={"password": "battery"})
    assert identity(task={"tokenizer": "bytes"}) != identity(task={"tokenizer": "chars"})


@pytest.mark.parametrize("key", ["key", "token", "query_key", "class_token", "memory_key"])
@pytest.mark.parametrize("values", [("shared", "separate"), ("relu6", "tanh2"), ("a.b:c", "a.b:d"), (100000, 200000)])
def test_a_setting_called_key_or_token_counts(key: str, values: tuple[Any, Any]) -> None:
    """Also as it is written, by which a folder is compared with a command."""
    for axis in ("task", "attention", "modal_fusion", "optimizer"):
        configs = [RunConfig(options={axis: {key: value}}, axes={}) for value in values]
        assert fingerprint(configs[0]) != fingerprint(configs[1])
        for config in configs:
            written = RunConfig.from_dict(config.shown())
            assert fingerprint(written) == fingerprint(config)
            assert written.shown() == config.shown()


def test_a_choice_of_a_component_is_written_in_the_clear() -> None:
    data = {
        "attention": {"key": "shared", "token": "letmein-1", "password": "letmein", "api_key": "letmein"},
        "task": {"key": "shared"},
        "logger": {"mine": {"key": "shared", "attention": {"key": "letmein"}}},
        "design": {"variants": {"wide": {"attention.key": "separate", "task.token": "letmein"}}},
        "mine": {"key": "shared"},
    }
    shown = redact(data)
    assert shown["attention"].pop("key") == "shared"
    assert shown["design"]["variants"]["wide"].pop("attention.key") == "separate"
    assert not {"shared", "separate", "letmein"} & set(re.findall(r"\w+", str(shown)))
    assert redact_override("+attention.key=shared") == "+attention.key=shared"
    assert redact_override("attention.key=a-b") == f"attention.key={HIDDEN}"
    assert redact_override("task.key=shared") == f"task.key={HIDDEN}"
    assert redact_yaml("attention: {key: shared}\n") == "attention: {key: shared}\n"


def test_a_secret_that_counts_is_taken_from_the_environment_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    options = redact({"task": {"token": "letmein-1"}})
    assert re.fullmatch(r"\*\*\*-[0-9a-f]{4}", options["task"]["token"])
    monkeypatch.setenv("TASK_TOKEN", "letmein-1")
    assert filled_in(options) == {"task": {"token": "letmein-1"}}
    monkeypatch.setenv("TASK_TOKEN", "letmein-2")
    with pytest.raises(UserError, match=r"^task\.token: is a secret, and that of the environment is not the one "):
        filled_in(options)


def test_identity_is_the_same_whatever_words_the_environment_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {
        "attention": {"_target_": "ablab.model.attention.Windowed", "mode": "separate"},
        "task": {"path": "data/mine.txt"},
    }
    config = RunConfig(options=options, axes={"attention": "windowed", "task": "copying_"})
    (tmp_path / "data" / "mine.txt").touch()
    before = fingerprint(config), config.shown()
    for name, value in (
        ("A", "windowed"),
        ("B", "separate"),
        ("C", "copying_"),
        ("D", "attention"),
        ("E", "data/mine.txt"),
    ):
        monkeypatch.setenv(f"{name}_TOKEN", value)
    assert (fingerprint(config), config.shown()) == before
    assert redact_override("attention=windowed") == "attention=windowed"
