"""No command line and no file brings a traceback, a hang or a file behind a refusal: odd ones, in great number.

`ABLAB_FUZZ=40 pytest tests/cli/test_fuzz.py -s` tries forty times as many, and says how they ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzzing import ENDED, FAULTS, FLAGS, ODD, SMALL, STUDIES, TIMES, check_end, end, overrides
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ablab.config import RunConfig
from ablab.results.record import Record
from ablab.study import job
from ablab.training.begin import new_record
from ablab.training.build import BuiltRun

TinyConfig = Callable[..., RunConfig]


def tried(examples: int) -> settings:
    """So many examples, each time the same ones, but in a long search."""
    return settings(
        max_examples=examples * TIMES,
        phases=[Phase.generate],
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(
    tiny_config: TinyConfig, run: Callable[..., Record], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A folder with a small study in it, and one for options of one's own."""
    place = tmp_path_factory.mktemp("fuzz")
    for index, activation in enumerate(("relu", "gelu")):
        for seed in (0, 1):
            config = tiny_config(f"activation={activation}", f"seed={seed}", "task=copying")
            run(config, place / "study" / f"activation={activation}" / f"seed={seed}", index=index)
    (place / "c" / "study").mkdir(parents=True)
    yield place
    print(f"\nexit status: {dict(ENDED)}", *FAULTS, sep="\n")
    assert not FAULTS


@pytest.fixture
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(built: BuiltRun, *_: object) -> Record:
        record = new_record(built.config)
        record.status, record.reason = "ok", None
        return record

    monkeypatch.setattr(job, "_run", trained)
    monkeypatch.setattr(job, "_summarise", lambda *_: None)


@tried(8)
@given(words=overrides(), more=st.lists(overrides(), max_size=1), mode=st.sampled_from(["run", "plan", "show"]))
def test_any_value_of_any_key(
    folder: Path, nothing_is_trained: None, words: list[str], more: list[list[str]], mode: str
) -> None:
    start = {"run": [], "plan": ["plan", "--no-probe", "seed=0,1"], "show": ["--cfg", "job"]}[mode]
    check_end(end(folder, [*start, *SMALL, *words, *(word for each in more for word in each)]))


@tried(12)
@given(words=st.lists(st.sampled_from(FLAGS), min_size=1, max_size=3))
def test_any_flags(folder: Path, nothing_is_trained: None, words: list[str]) -> None:
    run_at_all = "-m" not in words  # a sweep would be trained
    check_end(end(folder, [*words, *SMALL, *([] if run_at_all else ["attention=ful"])]))


@tried(5)
@given(text=STUDIES)
def test_any_study_file(folder: Path, text: str) -> None:
    (folder / "c" / "study" / "mine.yaml").write_text(text, encoding="utf-8")
    check_end(end(folder, ["--config-dir", "c", "plan", "--no-probe", *SMALL, "seed=0,1", "study=mine"]))


RUN = "study/activation=relu/seed=0"
COMPARED = st.sampled_from([*ODD, "activation=relu", "activation=", "seed=0", "seed=range(0)", "optimizer.lr=1e-3"])
OPTIONS = (
    "--baseline",
    "--metric",
    "--margin",
    "--last",
    "--split",
    "--intervals",
    "--format",
    "--by",
    "--output",
    "--nope",
)
COMMANDS = st.one_of(
    st.tuples(
        st.sampled_from(["compare", "report"]),
        st.sampled_from(["study", "nope", RUN, ".", ""]),
        COMPARED | st.tuples(st.sampled_from(["activation", "seed", "task.seq_len"]), COMPARED).map("=".join),
        st.sampled_from(OPTIONS),
        COMPARED,
    ),
    st.tuples(
        st.just("generate"),
        st.sampled_from([RUN, "study", "nope"]),
        st.sampled_from(["--temperature", "--tokens", "--top-k", "--seed", "--prompt", "--checkpoint"]),
        COMPARED | st.sampled_from(["1e-300", "1e300", "-0.0"]),
    ),
    st.tuples(
        st.just("evaluate"),
        st.sampled_from([RUN, "nope", ".", ""]),
        st.tuples(st.sampled_from(["task.seq_len", "task.path", "task", "task.eval_tokens", "seed"]), COMPARED).map(
            "=".join
        ),
        st.sampled_from(["--again", "--checkpoint", "--trust", "task.seq_len=8,16", "~task.path"]),
    ),
    st.tuples(
        st.just("export"),
        st.sampled_from([RUN, "study", "nope"]),
        st.sampled_from(["--format", "--checkpoint", "--output"]),
        COMPARED | st.sampled_from(["safetensors", "transformers"]),
    ),
    st.tuples(
        st.sampled_from(["keep", "consolidate", "resume", "sync"]), st.sampled_from(["study", RUN, "nope"]), COMPARED
    ),
    st.tuples(
        st.just("bench"),
        st.sampled_from(["loop", "runs", "strategies", "links", "attention", "nope"]),
        st.sampled_from(["--steps", "--rounds", "--rates", "--delay", "--lengths", "--budget", "--batch"]),
        st.sampled_from(["nan", "-1", "0", "x", "", "inf", "{}"]),
    ),
)


@tried(40)
@given(words=COMMANDS)
def test_any_words_of_the_other_commands(folder: Path, words: tuple[str, ...]) -> None:
    if words[:2] in (("bench", "runs"), ("bench", "attention")) and words[-1] == "inf":
        return  # an endless budget is none
    check_end(end(folder, words))
