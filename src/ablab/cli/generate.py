"""The command `generate`: texts that the model of a finished run continues."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablab.cli.parsing import Command, add_trust
from ablab.errors import UserError, printable

if TYPE_CHECKING:
    from ablab.model.generation import Effort
    from ablab.training.continuation import Continuations, Piece, Prompt

STDIN = "-"  # as the name of a file


def generate(parser: argparse.ArgumentParser) -> Command:
    """Continue texts with the model of a finished run."""
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a run")
    parser.add_argument(
        "--prompt", metavar="TEXT", action="append", help="may be given several times (default: a newline)"
    )
    parser.add_argument(
        "--prompt-file",
        metavar="FILE",
        help='a prompt on each line, or of FILE.jsonl a JSON string or {"prompt": ...}; - is standard input',
    )
    parser.add_argument("--tokens", metavar="N", type=int, default=200, help="how many to add (default: 200)")
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end before this; may be given several times"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0: always the likeliest token (default: 1)")
    parser.add_argument("--top-k", metavar="K", type=int, help="draw among the K likeliest tokens only")
    parser.add_argument(
        "--top-p", metavar="P", type=float, help="draw among the fewest likeliest tokens with this probability together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", metavar="N", type=int, default=16, help="prompts at a time (default: 16)")
    parser.add_argument(
        "--draft",
        metavar="N",
        type=int,
        nargs="?",
        const=True,
        help="the modules of objective=multi_token guess N tokens at a time, by default one each: same text, sooner",
    )
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="json: a line of JSON for each prompt"
    )
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best")
    add_trust(parser)

    def command(options: argparse.Namespace) -> None:
        from ablab.model.decoding import without_cache
        from ablab.training.continuation import ALL, Continuations, ContinuationSettings
        from ablab.training.restore import load_run

        if options.draft is not None and options.draft is not True and options.draft < 1:
            raise UserError(f"--draft {options.draft}: must be at least 1")
        settings = ContinuationSettings(
            tokens=options.tokens,
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            seed=options.seed,
            stop=options.stop,
            draft=ALL if options.draft is True else options.draft or 0,
            batch_size=options.batch_size,
        )
        prompts = read_prompts(options.prompt, options.prompt_file)
        model, task = load_run(options.run, options.checkpoint, options.trust)
        texts = Continuations(model, task, prompts, settings)
        if (line := without_cache(model)) is not None:
            print(f"ablab: {line}", file=sys.stderr)
        (_print_json if options.format == "json" else _print_texts)(texts)
        for line in _effort(texts.effort, model.max_length):
            print(f"ablab: {line}", file=sys.stderr)

    return command


def read_prompts(given: list[str] | None, file: str | None) -> list[Prompt]:
    """Those of the command line and behind them those of a file; a newline where there are none.

    Raises:
        UserError: the file cannot be read, or has no prompt, or something else, in it.
    """
    from ablab.training.continuation import Prompt

    prompts = [Prompt(text) for text in given or []]
    if "" in (given or []):
        raise UserError("--prompt: must not be empty")
    if file is not None:
        of_file = [Prompt(text, source) for source, text in _lines(file)]
        if not of_file:
            raise UserError(f"--prompt-file {file}: there is no prompt in it")
        prompts += of_file
    return prompts or [Prompt("\n")]


def _lines(file: str) -> Iterator[tuple[str, str]]:
    """The prompts of a file, each with its place."""
    if not file:  # as a path it would be the working folder
        raise UserError("--prompt-file: the name is empty: is a variable of the shell not set? (- is what is piped in)")
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--prompt-file {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"--prompt-file {file}: not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except ValueError as error:
        raise UserError(f"--prompt-file: no name of a file ({error})") from error
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip():
            source = f"--prompt-file {file}, line {number}"
            yield source, _of_json(source, line) if file.endswith(".jsonl") else line


def _of_json(source: str, line: str) -> str:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source}: not JSON ({error})") from error
    prompt = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(prompt, str):
        raise UserError(f'{source}: must be a string, or an object with a string as "prompt"')
    return prompt


def _print_texts(texts: Continuations) -> None:
    """Each prompt and what comes behind it, token by token; of several the first that is not finished."""
    _begin(texts, 0)
    for piece in _in_turn(texts):
        print(printable(piece.text), end="", flush=True)  # a model may write whatever it was taught
        if piece.finish_reason is not None:
            print()
            if piece.place + 1 < len(texts.prompts):
                print()
                _begin(texts, piece.place + 1)


def _begin(texts: Continuations, place: int) -> None:
    if len(texts.prompts) > 1:
        print(f"==> {place + 1} of {len(texts.prompts)} <==")
    print(printable(texts.prompts[place]), end="", flush=True)


def _print_json(texts: Continuations) -> None:
    """A line for each prompt, with the names that they have in completions of OpenAI's API."""
    text = ""
    for piece in _in_turn(texts):
        text += piece.text
        if piece.finish_reason is not None:
            line = {
                "index": piece.place,
                "prompt": texts.prompts[piece.place],
                "text": text,
                "finish_reason": piece.finish_reason,
                "completion_tokens": piece.tokens,
            }
            print(json.dumps(line), flush=True)
            text = ""


def _in_turn(texts: Continuations) -> Iterator[Piece]:
    """The pieces of the first text, and those of the next behind them, each as soon as it can be; none that nobody
    would read."""
    waiting: list[list[Piece]] = [[] for _ in texts.prompts]
    turn = 0
    for piece in texts:
        waiting[piece.place].append(piece)
        while turn < len(waiting) and waiting[turn]:
            first = waiting[turn].pop(0)
            turn += first.finish_reason is not None
            yield first
        if getattr(sys.stdout, "failed", None) is not None:  # of a pipe that was closed
            return


def _effort(effort: Effort, max_length: int) -> Iterator[str]:
    """Lines on how fast it was; none where there was nothing to do."""
    if not effort.read:
        return
    said = f"read {_rate(effort.read, effort.read_s)}, wrote {_rate(effort.written, effort.written_s)}"
    if effort.passes:
        mean = 1 + effort.accepted / effort.passes
        said += f"; accepted {effort.accepted} of {effort.drafted} guesses: mean accepted length {mean:.2f} a pass"
    yield said
    if effort.slid:
        yield (
            f"beyond {max_length} tokens the model sees the last {max_length} alone, and each new token computes all "
            "of them again"
        )


def _rate(tokens: int, seconds: float) -> str:
    per_second = tokens / seconds if seconds else 0.0
    return f"{tokens:,} tokens in {seconds:.2f} s ({per_second:,.{0 if per_second >= 10 else 2}f} tokens/s)"
