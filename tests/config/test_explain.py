"""Every error of Hydra's and OmegaConf's becomes one line that names what was wrong and what was probably meant."""

import pytest
from hydra import compose, initialize_config_dir

from ablab.config import conf_folder, register_schema
from ablab.config.explain import ConfigErrors, explain
from ablab.config.nearest import nearest


def explained(*overrides: str) -> str:
    register_schema()
    with (
        initialize_config_dir(str(conf_folder()), version_base="1.3"),
        pytest.raises(ConfigErrors) as caught,
    ):
        compose("config", list(overrides))
    return explain(caught.value)


def of_attention(wrong: str) -> str:
    """What the line says of the menu of conf/attention."""
    return nearest(wrong, [path.stem for path in (conf_folder() / "attention").glob("*.yaml")], see="ablab --help")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("attention=ful", f"attention=ful: no such option{of_attention('ful')}"),
        ("attention=", f"attention=: no such option{of_attention('')}"),
        ("seed=1.5", "seed=1.5: must be a whole number"),
        ("jobs=1.5", "jobs=1.5: must be a whole number or null"),
        ("timeout=long", "timeout=long: must be a number or null"),
        ("runs_per_device=null", "runs_per_device=null: must be a whole number"),
        ("runs_per_device=1.5", "runs_per_device=1.5: must be a whole number"),
        ("tune.lr=[0.1,big]", "tune.lr=[0.1,big]: must be a list of a number or null"),
        ("comparison.within=seed", "comparison.within=seed: must be a list of a text; write comparison.within=[seed]"),
        ("comparison.margin=x", "comparison.margin=x: must be a number or null"),
        ("seed=[1,2", "seed=[1,2: not an override; write KEY=VALUE, and quote values with spaces or commas"),
        ("hello", "hello: not an override; write KEY=VALUE, and quote values with spaces or commas"),
        (
            "baseline=plain",
            "baseline: is now comparison.baseline; write comparison.baseline=... in a command, "
            "comparison: {baseline: ...} in a file",
        ),
        (
            "hydra.callbacks.conclude.margin=1",
            "hydra.callbacks.conclude.margin: is now comparison.margin; write comparison.margin=... in a command, "
            "comparison: {margin: ...} in a file",
        ),
        (
            "strategy.pieces=2",
            "strategy.pieces: is now strategy.microbatches; write strategy.microbatches=... in a command, "
            "strategy: {microbatches: ...} in a file",
        ),
        ("tune=3", "tune=3: has settings by name; write tune.NAME=..."),
        ("seeds=3", "seeds=3: has settings by name; write seeds.NAME=...; the seeds of runs are seed=0,1,2"),
        ("budget=[1]", "budget=[1]: has settings by name; write budget.NAME=..."),
        ("tune.optimizer=[1,2]", "tune.optimizer=[1,2]: has settings by name; write tune.optimizer.NAME=..."),
        ("tune.lr={a:1}", "tune.lr={a:1}: must be a list of a number or null"),
        ("+seed=1", "seed: is in the config already; leave out the +"),
    ],
)
def test_the_line_of_a_wrong_override(override: str, line: str) -> None:
    assert explained(override) == line


@pytest.mark.parametrize(
    ("override", "start", "meant"),
    [
        ("model.d_modle=64", "model.d_modle: no such setting of model", "d_model"),
        ("task.seqlen=64", "task.seqlen: no such setting of task", "seq_len"),
        ("sed=1", "sed: no such setting", "seed"),
        ("attentoin=full", "attentoin: no such setting", "attention"),
        ("actvation=relu", "actvation: no such setting", "activation"),
    ],
)
def test_an_unknown_key_gets_the_nearest_one(override: str, start: str, meant: str) -> None:
    line = explained(override)
    assert line.startswith(f"{start}; did you mean '{meant}'? (the")
    assert "hydra" not in line
    assert "_target_" not in line


@pytest.mark.parametrize(
    "override", ["attention=ful", "seed=1.5", "model.d_modle=1", "seed=[1", "name=null", "task.x=1"]
)
def test_every_line_is_one_line(override: str) -> None:
    assert len(explained(override).splitlines()) == 1
