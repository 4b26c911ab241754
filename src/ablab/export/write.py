"""What `ablab export` does: the trained model of a run, for whoever reads safetensors, or for transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

from ablab.config import Node
from ablab.errors import UserError
from ablab.export.configs import experts_implementation
from ablab.export.counterparts import Counterpart, nearest_counterpart
from ablab.export.folder import CONFIG_FILE, VOCABULARY_FILE, Save, safetensors, target_of, write_folder
from ablab.export.settings import Inexpressible, ModelSettings
from ablab.export.vocabulary import tokenizer_files, vocabulary_of
from ablab.model.protocols import ScalesQueries, offering
from ablab.model.transformer import Transformer
from ablab.training.restore import Trained, restore
from ablab.version import __version__

Format = Literal["safetensors", "transformers"]
_RECIPE = "recipe="


def export_run(
    run: Path,
    format: Format,
    output: Path | None = None,
    checkpoint: str = "best",
    trust: bool = False,
) -> Path:
    """Write the trained model of a run into a folder of its own, all of it or nothing, and return that.

    Args:
        run: folder of a run with a checkpoint.
        format: "safetensors" for the model as it is; "transformers" for the one of that library which is the same.
        output: where to; None: into `export` in the run's folder. An earlier export there is replaced.
        checkpoint: "best" or "last".
        trust: components that the run's config names and that are not ablab's may run.

    Raises:
        UserError: a library is missing, something else is there, or transformers has no such model; as `restore` does.
    """
    trained = restore(run, checkpoint, trust)
    target = target_of(run, output, format)
    write_trained(trained, format, target)
    return target


def write_trained(trained: Trained, format: Format, target: Path) -> None:
    """Write a trained model into the folder `target`. Raises UserError as `export_run` does."""
    safetensors()  # before anything is written
    info: Node = {"format": format, "ablab": __version__, "checkpoint": trained.checkpoint, "step": trained.step}
    info["config"] = trained.config.shown()
    files: dict[str, Node | str] = {VOCABULARY_FILE: vocabulary_of(trained.task, trained.remembered)}
    if format == "safetensors":
        write_folder(target, info, files, partial(_save, trained.model))
        return
    counterpart, config = transformers_config(trained)
    files |= {CONFIG_FILE: config, **tokenizer_files(trained.remembered)}
    write_folder(target, info | {"recipe": counterpart.recipe}, files, _saving(counterpart, trained.model))


def transformers_config(trained: Trained) -> tuple[Counterpart, Node]:
    """The model of transformers that a run's is, and its `config.json`.

    Raises:
        UserError: there is none.
    """
    _require_next_tokens(trained)
    _require_no_multipliers(trained)
    settings = ModelSettings.of(trained.config)
    asked = (o.removeprefix(_RECIPE) for o in trained.config.overrides if o.startswith(_RECIPE))
    counterpart = nearest_counterpart(settings, next(asked, None))
    try:
        for difference in counterpart.differences(settings):
            raise difference
        config = counterpart.config(trained.model, settings)
    except Inexpressible as error:
        raise UserError(
            f"{trained.folder}: {counterpart.model} of transformers cannot express {error}; --format safetensors "
            "writes any model"
        ) from error
    dtype = str(trained.model.head.weight.dtype).removeprefix("torch.")
    return counterpart, {
        "architectures": [counterpart.model],
        "dtype": dtype,
        **config,
        **experts_implementation(trained.model, config),
    }


def _require_next_tokens(trained: Trained) -> None:
    model = trained.model
    tells_tokens = model.head.out_features == model.vocab_size and model.readout is None and not model.modalities
    if not (model.causal and tells_tokens):
        raise UserError(
            f"{trained.folder}: {trained.config.chosen('task')}: AutoModelForCausalLM of transformers is for models "
            "that tell the next token, which this one does not; --format safetensors writes any model"
        )


def _require_no_multipliers(trained: Trained) -> None:
    factors = [trained.model.output_factor, *(each.query_factor for _, each in offering(trained.model, ScalesQueries))]
    if any(factor != 1 for factor in factors):
        raise UserError(
            f"{trained.folder}: {trained.config.chosen('parametrisation')} multiplies queries and logits, for which "
            "models of transformers have no setting; --format safetensors writes any model"
        )


def _save(model: Transformer, path: Path) -> None:
    safetensors().save_model(model, str(path), {"format": "pt"})


def _saving(counterpart: Counterpart, model: Transformer) -> Save:
    weights = {name: each.contiguous() for name, each in counterpart.weights_of(model).items()}
    return lambda path: safetensors().save_file(weights, str(path), {"format": "pt"})
