"""The wheel brings the menu, the studies and the report's template with it, and works from anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contents of the wheel, as an installer would lay them down."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder)]
    subprocess.run([sys.executable, "-m", *build], check=True, capture_output=True, text=True)
    [wheel] = folder.glob("ablab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def ablab(unpacked: Path, cwd: Path, words: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ablab", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_that_is_not_python_is_inside(unpacked: Path) -> None:
    package = unpacked / "ablab"
    places = {"conf": "conf", "experiments/study": "conf/study", "src/ablab/report": "report"}
    for source, inside in {**places, "src/ablab/cli/template": "cli/template"}.items():
        kinds = (".yaml", ".j2", ".css", ".py", ".toml", ".md")
        files = [path for path in (ROOT / source).rglob("*") if path.suffix in kinds or path.name == "Makefile"]
        assert files
        for path in files:
            packed = package / inside / path.relative_to(ROOT / source)
            assert packed.read_bytes() == path.read_bytes()
    assert (unpacked / "hydra_plugins" / "ablab" / "plugins.py").is_file()
    assert not (unpacked / "hydra_plugins" / "__init__.py").exists()  # the namespace belongs to Hydra
    tests = [path.relative_to(package).as_posix() for path in unpacked.rglob("test_*.py")]
    assert tests == ["cli/template/tests/test_my_project.py"]  # which `ablab new` writes


def test_it_composes_from_what_it_brings(unpacked: Path, tmp_path: Path) -> None:
    where = "from ablab.config import conf_folder, studies_folder; print(conf_folder(), studies_folder())"
    environment = os.environ | {"PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(unpacked / "ablab" / "conf"), "None"]
    config = OmegaConf.create(ablab(unpacked, tmp_path, ["--cfg", "job", "study=quickstart", "attention=lsh"]))
    assert config.name == "quickstart"
    assert config.attention._target_ == "ablab.model.attention.lsh.LSHAttention"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_options_of_ones_own_is_added(unpacked: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "activation").mkdir(parents=True)
    (tmp_path / "mine" / "activation" / "cube.yaml").write_text("_target_: mine.Cube\nside: 3\n")
    words = ["--config-dir", str(tmp_path / "mine"), "--cfg", "job", "activation=cube", "model=small"]
    config = OmegaConf.create(ablab(unpacked, tmp_path, words))
    assert config.activation == {"_target_": "mine.Cube", "side": 3}
    assert config.model.n_layers == 6


def test_no_pinned_package_refuses_a_python_that_is_supported() -> None:
    """The first release of each, too: long-lived distributions have those."""
    pinned = [line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    needed = {name: SpecifierSet(_required_python(name)) for name in pinned}
    assert {name: str(each) for name, each in needed.items() if "3.11.0" not in each or "3.13.0" not in each} == {}


def _required_python(name: str) -> str:
    try:
        return ",".join(metadata(name).get_all("Requires-Python") or [])
    except PackageNotFoundError:  # of another platform, or an extra
        return ""
