"""Spoken arithmetic: a written digit, a spoken one, and what to do with the two."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch.optim.optimizer import StateDict
from torch.utils.data import Dataset

from ablab.errors import UserError
from ablab.results.record import Corpus
from ablab.tasks.answers import AnswerTask
from ablab.tasks.base import Batch, Modality
from ablab.tasks.batches import Fetch, Rows
from ablab.tasks.corpus import checked_fractions
from ablab.tasks.multimodal.digits import Handwriting, Speech
from ablab.tasks.multimodal.instructions import (
    AUDIO,
    IMAGE,
    MODALITIES,
    NO_WORD,
    OPERATIONS,
    TEXT,
    Phrases,
    best_accuracy,
    modality_subsets,
    results,
    subset_name,
)
from ablab.tasks.multimodal.samples import Normaliser, Samples, dropped
from ablab.tasks.multimodal.sounds import Dialling, Sounds, Spectrogram

_KEYS = {"train": 10, "val": 11, "test": 12, "scale": 13}  # streams of their own, drawn from the same seed
_SCALED = 2000  # sounds of the training split that the scale of audio is taken from
ANSWERS = np.unique(results(np.arange(10)[:, None], np.arange(10)[None, :]))  # every result that can come out


class SpokenArithmetic(AnswerTask):
    """A handwritten digit (image), a spoken or dialled one (audio) and an instruction in words (text).

    The instruction asks to add the two, to subtract the spoken digit from the written one, or for the larger; the
    answer is one of 28 classes, -9 to 18. No two modalities are enough, and `oracle` says how far any of them get.

    Training batch i and the evaluation samples are functions of (seed, split, index) alone. No image is in two splits,
    and no speaker; dialling tones are drawn anew for every sample. Features are normalised by the training split's mean
    and deviation (of all pixels; of each frequency), which a checkpoint keeps.

    The test samples are evaluated once with all modalities and once with each subset of them: what is left out is
    masked, as what `modality_dropout` leaves out in training is.

    Args:
        image_path: a folder of MNIST-format files; None: the digits that come with scikit-learn.
        audio_path: a folder of recordings `{digit}_{speaker}_{index}.wav`; None: dialling tones.
        patches: along each side of an image, which it divides.
        seconds: of sound.
        frames: of the spectrogram in a token of audio.
        snr_db: lowest and highest signal-to-noise ratio of dialling tones, in decibels.
        modality_dropout: probability of leaving out a modality of a training sample; one is always left.
        val_fraction, test_fraction: expected shares of the images.
        eval_samples: in the validation split, and as many in the test split.
        (the others): as `AnswerTask` says.

    Raises:
        ValueError: a number is out of range.
        UserError: data are missing or damaged.
    """

    causal = False
    pooled = True
    same_samples = True
    n_outputs = len(ANSWERS)

    def __init__(
        self,
        *,
        batch_size: int,
        seed: int,
        image_path: str | None = None,
        audio_path: str | None = None,
        patches: int = 4,
        seconds: float = 0.25,
        frames: int = 2,
        snr_db: tuple[float, float] = (0.0, 20.0),
        modality_dropout: float = 0.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        eval_samples: int = 1000,
        eval_batch_size: int = 128,
        workers: int = 0,
        target: float | None = None,
    ) -> None:
        self.phrases = Phrases.of_operations()
        self.spectrogram = Spectrogram(seconds=seconds, frames=frames)
        if patches < 1:
            raise ValueError(f"task.patches={patches}: must be at least 1")
        length = patches**2 + self.spectrogram.length + self.phrases.longest
        super().__init__(
            seq_len=length,
            batch_size=batch_size,
            seed=seed,
            eval_batch_size=eval_batch_size,
            workers=workers,
            target=target,
        )
        if not 0 <= modality_dropout < 1:
            raise ValueError(f"task.modality_dropout={modality_dropout}: must be at least 0 and below 1")
        self.fractions = checked_fractions(val_fraction, test_fraction)
        if not test_fraction:
            raise ValueError("task.test_fraction=0: subsets of the modalities are evaluated on test samples; give some")
        if eval_samples < 1:
            raise ValueError(f"task.eval_samples must be at least 1, got {eval_samples}")
        self.image_path, self.audio_path, self.snr_db = image_path, audio_path, snr_db
        self.patches, self.modality_dropout, self.eval_samples = patches, modality_dropout, eval_samples
        self.vocab_size = self.phrases.vocab_size
        self._scale: dict[str, Normaliser] = {}
        self._evaluation: dict[str, Samples] = {}

    def setup(self, stage: str | None = None) -> None:
        """Read images and recordings, take the scale of features, and draw the evaluation samples."""
        if self._evaluation:
            return
        self._writing = Handwriting(self.image_path, patches=self.patches, fractions=self.fractions)
        self._sounds: Sounds = (
            Dialling(self.spectrogram, snr_db=self.snr_db)
            if self.audio_path is None
            else Speech(self.audio_path, self.spectrogram)
        )
        self.corpus = self._described(self._writing.corpus, self._sounds)
        if not self._scale:  # else they came with a checkpoint
            self._scale = self._measured()
        self._evaluation = {
            split: self.draw(np.random.default_rng([self.seed, _KEYS[split]]), split, self.eval_samples)
            for split in ("val", "test")
        }

    @property
    def modalities(self) -> dict[str, Modality]:  # type: ignore[override]
        """Known after `setup` or `load_state_dict`."""
        lengths = self._lengths
        return {
            IMAGE: Modality(lengths[IMAGE], features=self._pixels),
            AUDIO: Modality(lengths[AUDIO], features=self.spectrogram.features),
            TEXT: Modality(lengths[TEXT], vocab_size=self.vocab_size),
        }

    @property
    def oracle(self) -> dict[str, float]:
        """`chance` guesses without looking, `with=image+text` and so on have those modalities alone."""
        reachable = {subset_name(subset): best_accuracy(subset) for subset in modality_subsets()}
        return {"chance": best_accuracy(()), "ceiling": best_accuracy(MODALITIES), **reachable}

    def draw(self, generator: np.random.Generator, split: str, count: int) -> Samples:
        """`count` samples of a split, with all modalities."""
        written, spoken = generator.integers(0, 10, (2, count))
        operations, phrasings = (generator.integers(0, size, count) for size in self.phrases.shape)
        image = self._writing.draw(generator, written, split)
        audio, silent = self._sounds.draw(generator, spoken, split)
        text = self.phrases.ids[operations, phrasings]
        answers = np.choose(operations, results(written, spoken))
        seen = np.zeros((count, self._lengths[IMAGE]), dtype=bool)
        return Samples(
            image=self._scale[IMAGE](image),
            audio=self._scale[AUDIO](audio),
            text=text,
            padding=np.concatenate([seen, silent, text == NO_WORD], axis=1),
            answers=np.searchsorted(ANSWERS, answers)[:, None],
        )

    def train_batches(self, rank: int, processes: int) -> Dataset[Batch]:
        return _TrainBatches(self, rank, processes)

    def subsets(self, split: str) -> list[str]:
        """Test samples with all modalities, then with each subset of them; validation samples with all."""
        return [subset_name(subset) for subset in modality_subsets()] if split == "test" else [""]

    def evaluation(self, split: str) -> list[tuple[Fetch, int]]:
        samples = self._evaluation[split]
        return [
            (_fetching(samples, subset), self.eval_samples) for subset in modality_subsets()[: len(self.subsets(split))]
        ]

    def state_dict(self) -> StateDict:
        """The scale of features, and what a model needs to be built without the data."""
        self.setup()
        return {"scale": {name: scale.state() for name, scale in self._scale.items()}, "pixels": self._pixels}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Raises UserError where samples are there already, and their scale is another."""
        scale = {name: Normaliser.from_state(state) for name, state in state_dict["scale"].items()}
        if self._evaluation and scale != self._scale:
            raise UserError("the checkpoint's images or sounds are not those at hand: use those that it was trained on")
        self._scale = scale
        self._known_pixels = int(state_dict["pixels"])

    @property
    def _lengths(self) -> dict[str, int]:
        return {IMAGE: self.patches**2, AUDIO: self.spectrogram.length, TEXT: self.phrases.longest}

    @property
    def _pixels(self) -> int:
        """Of a patch."""
        return self._writing.training.shape[-1] if self._evaluation else self._known_pixels

    def _measured(self) -> dict[str, Normaliser]:
        generator = np.random.default_rng([self.seed, _KEYS["scale"]])
        sounds, silent = self._sounds.draw(generator, generator.integers(0, 10, _SCALED), "train")
        return {
            IMAGE: Normaliser.of(self._writing.training),
            AUDIO: Normaliser.of(sounds[~silent], groups=self.spectrogram.frames),
        }

    def _described(self, images: Corpus, sounds: Sounds) -> Corpus:
        settings = json.dumps(
            {"operations": OPERATIONS, "patches": self.patches, "seconds": self.spectrogram.seconds}
            | {"frames": self.spectrogram.frames, "snr_db": list(self.snr_db), "sounds": sounds.sha256},
            sort_keys=True,
        )
        return Corpus(
            name=f"{images.name}, {sounds.name}, instructions",
            sha256=hashlib.sha256((images.sha256 + settings).encode()).hexdigest(),
            size_bytes=images.size_bytes + sounds.size_bytes,
            files=images.files + sounds.files,
        )


def _fetching(samples: Samples, subset: tuple[str, ...]) -> Fetch:
    """Return what gives the samples with the modalities of `subset` alone."""
    return partial(_rows, samples, np.array([name not in subset for name in MODALITIES]))


def _rows(samples: Samples, left_out: NDArray[np.bool_], rows: Rows) -> Batch:
    return samples.take(rows).without(np.tile(left_out, (len(rows), 1))).batch()


class _TrainBatches(Dataset[Batch]):
    """Item i is one process's share of training batch i."""

    def __init__(self, task: SpokenArithmetic, rank: int, processes: int) -> None:
        self._task = task
        share = task.batch_size // processes
        self._share = slice(rank * share, (rank + 1) * share)

    def __getitem__(self, index: int) -> Batch:
        task = self._task
        generator = np.random.default_rng([task.seed, _KEYS["train"], index])
        samples = task.draw(generator, "train", task.batch_size)
        if task.modality_dropout:
            samples = samples.without(dropped(generator, task.batch_size, task.modality_dropout))
        return samples.take(self._share).batch()
