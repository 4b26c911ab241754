"""An export on the disk: it is read back, is there whole or not at all, and runs nothing of a stranger's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers as hf
import torch
from variants import TinyConfig, as_trained

from ablab import load
from ablab.api import ExportedModel
from ablab.cli import main
from ablab.config import RunConfig
from ablab.errors import UserError
from ablab.export import folder as folders
from ablab.export.vocabulary import tokenizer_files
from ablab.export.write import export_run, write_trained
from ablab.results.find import record_files
from ablab.results.record import Record
from ablab.tasks.tokenizers import SubwordTokenizer
from ablab.training.restore import load_run

pytest.importorskip("safetensors", reason="the extra `export` is not installed")


@pytest.fixture(scope="module")
def trained(
    tiny_config: TinyConfig, run: Callable[[RunConfig, Path], Record], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run on characters, with a tied head."""
    folder = tmp_path_factory.mktemp("study") / "run"
    run(tiny_config("recipe=gpt2", "model.n_layers=1", "task.tokenizer=chars"), folder)
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_what_is_exported_is_read_back(copied: Path) -> None:
    folder = export_run(copied, "safetensors")
    assert folder == copied / "export" / "safetensors"
    exported, run = load(folder), load(copied)
    assert isinstance(exported, ExportedModel)
    assert exported.config["model"] == run.config["model"]
    for name, value in exported.model().state_dict().items():
        assert torch.equal(value, run.model().state_dict()[name]), name
    assert not exported.model().training
    assert torch.equal(exported.task().encode("12 squared"), run.task().encode("12 squared"))
    assert record_files(copied) == [copied / "record.json"]  # it is no other run


def test_a_pretrained_tokenizer_puts_no_tokens_around_a_text() -> None:
    """The run saw none, whatever the tokenizer was published with."""
    published = hf.Tokenizer(hf.models.WordLevel({"[UNK]": 0, "<s>": 1, "é": 2}, unk_token="[UNK]"))
    published.post_processor = hf.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    own = SubwordTokenizer(published.to_str())
    exported = hf.Tokenizer.from_str(tokenizer_files(own.state())["tokenizer.json"])
    assert exported.encode("é").ids == own.encode("é").tolist() == [2]


def test_tied_weights_are_there_once(copied: Path) -> None:
    path = export_run(copied, "safetensors") / folders.WEIGHTS_FILE
    weights = folders.safetensors().load_file(path)
    assert len({"head.weight", "embedding.weight"} & set(weights)) == 1
    model = load(path.parent).model()
    assert model.head.weight is model.embedding.weight


def test_it_says_what_it_is_of(copied: Path) -> None:
    folder = export_run(copied, "safetensors", copied.parent / "elsewhere", checkpoint="last")
    info = json.loads((folder / "config.json").read_text())
    assert (info["format"], info["checkpoint"], info["step"]) == ("safetensors", "last", 4)
    assert info["config"]["axes"]["norm"] == "layer"
    tokens = json.loads((folder / "vocabulary.json").read_text())["tokens"]
    assert load(folder).task().encode("".join(tokens)).tolist() == list(range(len(tokens)))


def test_a_device_that_is_not_there_is_named(copied: Path) -> None:
    with pytest.raises(UserError, match="device=nowhere: "):
        load_run(copied, device="nowhere")


def test_the_command_writes_and_replaces(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["export", str(copied), "--format", "transformers"])
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"{copied / 'export' / 'transformers'}\n"
    written = {path.name for path in (copied / "export" / "transformers").iterdir()}
    assert written == {
        *("ablab.json", "config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "vocabulary.json"),
    }
    assert [path.name for path in (copied / "export").iterdir()] == ["transformers"]
    with pytest.raises(UserError, match=r"AutoModelForCausalLM\.from_pretrained opens; for load\(\) there is --format"):
        load(copied / "export" / "transformers").model()


def test_what_is_no_export_is_left_alone(copied: Path) -> None:
    (mine := copied / "mine").mkdir()
    (mine / "config.json").write_text("{}")
    for target in (mine, copied, mine / "config.json"):
        with pytest.raises(UserError, match=r"is there already, and is no export of ablab's; choose another --output"):
            export_run(copied, "safetensors", target)
    assert (mine / "config.json").read_text() == "{}"
    (copied / "export").symlink_to(mine)
    (copied.parent / "outside").mkdir()
    (copied / "export").unlink()
    (copied / "export").symlink_to(copied.parent / "outside")
    with pytest.raises(UserError, match="a link leads out of the run's folder"):
        export_run(copied, "safetensors")
    assert list((copied.parent / "outside").iterdir()) == []


@pytest.mark.parametrize("interrupted", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_one_that_fails_leaves_what_was_there(
    interrupted: type[BaseException] | OSError, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = export_run(copied, "safetensors")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*_: object) -> None:
        raise interrupted

    monkeypatch.setattr(folders.safetensors(), "save_model", fail)
    with pytest.raises((KeyboardInterrupt, UserError)):
        export_run(copied, "safetensors", checkpoint="last")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["safetensors"]


def test_what_a_killed_one_left_is_removed(copied: Path) -> None:
    left = copied / "export" / ".safetensors.new"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    export_run(copied, "safetensors")
    assert [path.name for path in left.parent.iterdir()] == ["safetensors"]


@pytest.mark.parametrize("name", ["config.json", "vocabulary.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"ablab_export": 1, "format": "safetensors"}', None])
def test_a_damaged_export_is_said_to_be_one(name: str, content: bytes | None, copied: Path) -> None:
    folder = export_run(copied, "safetensors")
    path = folder / name
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    with pytest.raises(UserError, match=r"damaged|no export of ablab's"):
        load(folder).model()


def test_an_export_of_a_strangers_runs_nothing(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_run(copied, "safetensors")
    (tmp_path / "stranger.py").write_text("from torch.nn import GELU\n\n\ndef sine(spec):\n    return GELU()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (folder / "config.json").read_text()
    ours = "ablab.model.activation.stateless.TanhGELU"
    assert ours in text
    (folder / "config.json").write_text(text.replace(ours, "stranger.sine"))
    with pytest.raises(UserError, match=r"asks for activation\._target_=stranger\.sine, which is not ablab's own"):
        load(folder).model()
    assert load(folder).model(trust=True).vocab_size == load(folder).task(trust=True).vocab_size


def test_a_later_export_asks_for_a_later_version(copied: Path) -> None:
    path = export_run(copied, "safetensors") / "config.json"
    path.write_text(path.read_text().replace('"ablab_export": 1', '"ablab_export": 2'))
    with pytest.raises(UserError, match="exported by a later version of ablab"):
        load(path.parent).model()


def test_secrets_are_left_out(tiny_config: TinyConfig, tmp_path: Path) -> None:
    config = tiny_config("recipe=gpt2", "model.n_layers=1")
    config.options["logger"]["mine"] = {"api_key": "very-secret-1234"}
    write_trained(as_trained(config), "safetensors", tmp_path / "model")
    assert all(b"very-secret-1234" not in path.read_bytes() for path in (tmp_path / "model").iterdir())
