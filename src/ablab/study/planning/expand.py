"""From the overrides of a multirun to a plan: a list of runs, each a list of overrides.

What is swept falls into three: the seed, the task (with its settings, and what is zipped with either), and the factors.
The design chooses variants among the combinations of factors; each is run on every task and every seed. All variants
come on the first seed, then on the next: whenever a study is stopped, what there is can be compared.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hydra.core.override_parser.types import Override, Quote, QuotedString

from ablab.config.explain import moved
from ablab.config.overrides import BETWEEN_OVERRIDES, alike, not_too_many, same_value
from ablab.config.placebo import KEY, override_of
from ablab.config.redact import is_secret, redact_override
from ablab.config.schema import OF_THE_STUDY
from ablab.errors import UserError
from ablab.results.factors import OF_SPEED
from ablab.results.run_context import BudgetReport, RunContext, TuningReport
from ablab.study.designs import Design, Designed, Factor, Variant, zip_factors

SUBDIR = "hydra.sweep.subdir"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as a plan asks for it."""

    overrides: list[str]
    context: RunContext = field(default_factory=RunContext)
    folder: str | None = None  # below that of the study, and may refer to the config; None: as Hydra names it

    @property
    def variant(self) -> str:
        """The name of its variant; "" for the only one of a sweep over seeds."""
        return self.context.variant or ""

    @property
    def hydra_overrides(self) -> list[str]:
        """All that another launcher than ours has to know."""
        return self.overrides if self.folder is None else [*self.overrides, f"{SUBDIR}={_quoted(self.folder)}"]

    def adjusted(self, overrides: Sequence[str], **found: BudgetReport | TuningReport) -> Run:
        """The run with further overrides, and what was found out for it: its `budget` or its `tuning`."""
        context: RunContext = replace(self.context, **found)  # type: ignore[arg-type]
        return replace(self, overrides=[*self.overrides, *overrides], context=context)


@dataclass(frozen=True)
class Expansion:
    """A plan, and what the design left out of it."""

    runs: list[Run]
    excluded: list[str] = field(default_factory=list)  # a line each


def expand(
    overrides: Sequence[Override], design: Design, baseline: str | None = None, within: Collection[str] = ()
) -> Expansion:
    """The runs of a plan, each with its variant, index and folder.

    Of two overrides of the same key the later one counts, and of equal values one. The seed may be swept, but does
    not make a variant.

    Args:
        baseline: overrides of the variant that the others are compared with, "attention=full"; or its name.
        within: keys at each value of which there is a baseline.

    Raises:
        UserError: a sweep that has no list of values (`interval`), one over a setting of the study as a whole, or
            what the design refuses.
    """
    choices = _choices(overrides, {key for group in design.zip or [] for key in group})
    swept = {key: values for key, values in choices.items() if values.swept}
    kept = {key: values.texts[0] for key, values in choices.items() if not values.swept}
    fixed = {key: values.values[0] for key, values in choices.items() if not values.swept}
    seeds = swept.pop("seed").values if "seed" in swept else [None]
    factors, tasks, design = _divide(swept, design)
    runs: list[Run] = []
    left_out: Counter[str] = Counter()
    for task in tasks.levels if tasks else [{}]:
        designed = design.choose(factors, fixed | task, _declared(baseline, factors, design))
        left_out.update(rule for _, rule in designed.excluded)
        arms = _arms(designed, design.placebos, within)
        for seed in seeds:
            for name, variant, placebo in arms:
                chosen = {key: f"{key}={value}" for key, value in (dict(variant) | task).items()}
                parts = [chosen[key] for key in task] if name else _in_order(chosen, choices)
                ends = [*([name] if name else []), *([f"{KEY}={placebo}"] if placebo else [])]
                label, shown = (",".join(map(redact_override, [*own, *ends])) for own in (parts, map(alike, parts)))
                if seed is not None:
                    chosen["seed"] = f"seed={seed}"
                run = Run(
                    overrides=_in_order(kept | chosen, choices) + ([override_of(placebo)] if placebo else []),
                    context=RunContext(variant=shown, index=len(runs)),
                    folder=_folder(label, chosen.get("seed") or kept.get("seed")),
                )
                runs.append(run)
    lines = [f"left out: {rule}" + (f" ({count} variants)" if count > 1 else "") for rule, count in left_out.items()]
    return Expansion(runs, lines)


def _arms(
    designed: Designed, placebos: Sequence[str], within: Collection[str]
) -> list[tuple[str | None, Variant, str]]:
    """(name, settings, kind of placebo): each variant, then each placebo of a baseline, which has its settings."""
    names: list[str | None] = [*designed.names] or [None] * len(designed.variants)
    arms = list(zip(names, designed.variants, strict=True))
    reference = {key: value for key, value in arms[0][1].items() if key not in within}
    bases = [arm for arm in arms if reference == {key: value for key, value in arm[1].items() if key not in within}]
    return [*((*arm, "") for arm in arms), *((*base, kind) for base in bases for kind in placebos)]


def folder_name(text: str) -> str:
    """`text` as the name of one folder: readable, and without characters that shells or file systems object to.

    Different texts have different names: one that had to be changed ends in a hash of the text.
    """
    name = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)[:200]
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class _Values:
    """What was given for a key: as overrides, and the values alone."""

    texts: list[str]
    values: list[str]

    @property
    def swept(self) -> bool:
        return len(self.values) > 1


def _choices(overrides: Sequence[Override], zipped: Collection[str]) -> dict[str, _Values]:
    """What was given for each key. Equal values count once, but where others advance with them."""
    choices: dict[str, _Values] = {}
    for override in overrides:
        key = override.get_key_element()
        key, plain = "seed" if key == "++seed" else key, key.lstrip("+")
        if said := moved(key):
            raise UserError(said)
        choices.pop(key, None)
        if override.is_sweep_override():
            if not override.is_discrete_sweep():
                raise UserError(
                    f"{override.input_line}: needs a list of values, such as {key}=1,2,3; an interval is searched by "
                    "hydra/sweeper=optuna"
                )
            if plain == "name":
                raise UserError(f"{override.input_line}: a sweep is one study, and has one name")
            values = [*map(str, not_too_many(override.sweep_string_iterator(), str(override.input_line)))]
            if not values:
                raise UserError(f"{override.input_line}: gives no value at all; write {key}=1,2,3, or one value")
            if any(is_secret(key, text) for text in values):
                raise UserError(f"{key}: is a secret, and no variant: give it one value, or leave it out")
            values = values if key in zipped else list(dict.fromkeys(values))
            if plain.split(".")[0] in OF_THE_STUDY and len(values) > 1:
                raise UserError(f"{override.input_line}: holds for the study as a whole, and cannot be swept over")
            choices[key] = _Values([f"{key}={value}" for value in values], values)
        elif override.is_delete():
            choices[key] = _Values([str(override.input_line)], [""])
        else:
            value = str(override.get_value_element_as_str())
            choices[key] = _Values([f"{key}={value}"], [value])
    return choices


def _divide(swept: Mapping[str, _Values], design: Design) -> tuple[list[Factor], Factor | None, Design]:
    """The factors, the tasks, and the design without the groups of zipped keys that are done with."""
    every = [Factor(tuple({key: value} for value in values.values)) for key, values in swept.items()]
    groups = [group for group in design.zip or [] if any(map(_is_task, group))]
    if "seed" in {key.lstrip("+") for group in design.zip or [] for key in group}:
        raise UserError("design.zip: the seed cannot be zipped, since variants are compared on the same seeds")
    joined = zip_factors(every, groups)
    tasks = [factor for factor in joined if any(map(_is_task, factor.levels[0]))]
    factors = [factor for factor in joined if factor not in tasks]
    rest = [group for group in design.zip or [] if group not in groups]
    if not tasks:
        return factors, None, replace(design, zip=rest)
    levels: list[dict[str, str]] = [{}]
    for factor in tasks:
        levels = [before | dict(level) for before in levels for level in factor.levels]
    return factors, Factor(tuple(levels)), replace(design, zip=rest)


def _is_task(key: str) -> bool:
    name = key.lstrip("+")
    return name.split(".")[0] == "task" and name not in OF_SPEED


def _declared(baseline: str | None, factors: Sequence[Factor], design: Design) -> dict[str, str]:
    """What the declared baseline says of what is varied: a command may have narrowed it down, or fixed it."""
    pairs = (part.partition("=") for part in BETWEEN_OVERRIDES.split(baseline or ""))
    declared = {key.strip(): value.strip() for key, equals, value in pairs if equals}
    levels = [level for factor in factors for level in factor.levels]
    named = getattr(design, "variants", None) or {}
    levels += [
        {str(key): str(value) for key, value in each.items()} for each in named.values() if isinstance(each, Mapping)
    ]
    if baseline in named and isinstance(named[baseline], Mapping):
        return {str(key): str(value) for key, value in named[baseline].items()}
    return {
        key: value
        for key, value in declared.items()
        if any(key in level and same_value(level[key], value) for level in levels)
    }


def _in_order(chosen: Mapping[str, str], choices: Mapping[str, _Values]) -> list[str]:
    """The overrides, in the order in which they were given."""
    return [chosen[key] for key in choices if key in chosen] + [chosen[key] for key in chosen if key not in choices]


def _folder(variant: str, given_seed: str | None) -> str:
    seed = folder_name(given_seed) if given_seed else "seed=${seed}"  # which a study file may give
    return f"{folder_name(variant)}/{seed}" if variant else seed


def _quoted(text: str) -> str:
    return QuotedString(text=text, quote=Quote.single).with_quotes()
