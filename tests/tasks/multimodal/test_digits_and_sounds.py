"""Where images and sounds of digits come from, against definitions that are slow and plain."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import wavfile

from ablab.errors import UserError
from ablab.tasks import cache
from ablab.tasks.multimodal.digits import Handwriting, Speech, read_wave, split_speakers
from ablab.tasks.multimodal.samples import Normaliser
from ablab.tasks.multimodal.sounds import RATE, Dialling, Spectrogram

SPOKEN = Path(__file__).parents[3] / "../shared/data/fsdd/recordings"
# ITU-T Q.23: the keypad as it lies on a telephone.
ROWS, COLUMNS, KEYS = (697, 770, 852, 941), (1209, 1336, 1477), ("123", "456", "789", "*0#")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLAB_CACHE", str(tmp_path / "cache"))


def test_a_spectrogram_against_the_definition_of_the_transform() -> None:
    spectrogram = Spectrogram(seconds=0.1, frames=2, n_fft=64, hop=32)
    wave = np.random.default_rng(0).standard_normal((1, 800)).astype(np.float32)
    tokens = spectrogram.tokens(wave)
    assert tokens.shape == (1, spectrogram.length, spectrogram.features) == (1, 12, 2 * 33)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(64) / 64)
    for frame in range(24):
        cut = wave[0, frame * 32 : frame * 32 + 64] * window
        waves = np.exp(-2j * np.pi * np.outer(np.arange(33), np.arange(64)) / 64)
        power = np.log(np.abs(waves @ cut) ** 2 + 1e-8)
        np.testing.assert_allclose(tokens[0, frame // 2].reshape(2, 33)[frame % 2], power, rtol=1e-3, atol=1e-3)


def test_tokens_behind_the_end_of_a_sound_are_padding() -> None:
    spectrogram = Spectrogram(seconds=0.5, frames=2)
    padding = spectrogram.padding(np.array([0, 1, 256, 257, 4000]))
    assert (~padding).sum(axis=1).tolist() == [1, 1, 1, 2, spectrogram.length]
    assert not padding[:, 0].any()


@pytest.mark.parametrize("digit", range(10))
def test_a_dialled_digit_has_the_two_frequencies_of_its_key(digit: int) -> None:
    dialling = Dialling(Spectrogram(seconds=0.5, frames=1), snr_db=(20, 20))
    wave = dialling.waves(np.random.default_rng(digit), np.array([digit]))[0]
    spectrum = np.abs(np.fft.rfft(wave))
    frequencies = np.fft.rfftfreq(len(wave), 1 / RATE)
    low, high = (spectrum * (frequencies < 1000), spectrum * (frequencies > 1000))
    row = min(ROWS, key=lambda f: abs(f - frequencies[low.argmax()]))
    column = min(COLUMNS, key=lambda f: abs(f - frequencies[high.argmax()]))
    assert abs(frequencies[low.argmax()] - row) <= 2
    assert abs(frequencies[high.argmax()] - column) <= 2
    assert KEYS[ROWS.index(row)][COLUMNS.index(column)] == str(digit)


def test_noise_phase_and_level_vary() -> None:
    spectrogram = Spectrogram(seconds=0.25, frames=2)
    digits = np.full(200, 5)
    quiet = Dialling(spectrogram, snr_db=(60, 60)).waves(np.random.default_rng(0), digits)
    levels = np.abs(quiet).max(axis=1)
    assert 0.08 < levels.min() < 0.2  # -20 dB
    assert 0.8 < levels.max() <= 1.01
    assert np.abs(quiet[:, 0] / levels).std() > 0.1
    loud = Dialling(spectrogram, snr_db=(0, 0)).waves(np.random.default_rng(0), digits)
    ratio = ((loud - quiet) ** 2).mean(axis=1) / (quiet**2).mean(axis=1)
    assert ratio.mean() == pytest.approx(1, abs=0.05)


def test_a_patch_is_what_one_cuts_out_by_hand() -> None:
    writing = Handwriting(None, patches=2, fractions=(0.1, 0.1))
    from sklearn.datasets import load_digits

    images = load_digits().images.astype(np.float32) / 16
    known = {image.tobytes() for image in images}
    for patches in writing.training[:20]:
        grid = patches.reshape(2, 2, 4, 4)
        assert np.block([[grid[0, 0], grid[0, 1]], [grid[1, 0], grid[1, 1]]]).astype(np.float32).tobytes() in known


def test_the_images_of_a_digit_show_it_and_no_split_shares_one() -> None:
    writing = Handwriting(None, patches=4, fractions=(0.1, 0.1))
    seen = {}
    for split in ("train", "val", "test"):
        drawn = writing.draw(np.random.default_rng(0), np.repeat(np.arange(10), 200), split)
        seen[split] = {
            patches.tobytes(): digit for patches, digit in zip(drawn, np.repeat(np.arange(10), 200), strict=True)
        }
    assert not seen["train"].keys() & (seen["val"].keys() | seen["test"].keys())
    assert not seen["val"].keys() & seen["test"].keys()
    assert len(seen["val"]) > 100


def test_images_that_cannot_be_cut_so_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.patches=3 does not divide"):
        Handwriting(None, patches=3, fractions=(0.1, 0.1))


def test_too_few_images_for_every_digit_in_every_split_are_refused() -> None:
    with pytest.raises(UserError, match=r"no image of [\d, ]+ in the val split, and each needs all ten: give"):
        Handwriting(None, patches=2, fractions=(0.003, 0.1))


def test_normalised_features_have_mean_zero_and_deviation_one() -> None:
    values = np.random.default_rng(0).normal([3, -1, 0, 5], [2, 1, 0, 4], (500, 7, 4)).astype(np.float32)
    each = Normaliser.of(values, groups=2)  # features 0 and 2 share their figures, and 1 and 3
    for pair in ([0, 2], [1, 3]):
        scaled = each(values)[..., pair]
        assert scaled.mean() == pytest.approx(0, abs=1e-4)
        assert scaled.std() == pytest.approx(1, abs=1e-4)
    whole = Normaliser.of(values)
    assert whole.mean.shape == (1,)
    assert whole(values).std() == pytest.approx(1, abs=1e-4)
    again = Normaliser.from_state(each.state())
    np.testing.assert_array_equal(again(values), each(values))
    constant = Normaliser.of(np.full((3, 2), 4.0, dtype=np.float32))
    np.testing.assert_array_equal(constant(np.full((1, 2), 4.0, dtype=np.float32)), 0)


def record(folder: Path, speakers: list[str], rate: int = RATE, takes: int = 2) -> Path:
    """Recordings in the true format: digit d of speaker s is a tone of a frequency of its own."""
    folder.mkdir(exist_ok=True)
    for number, speaker in enumerate(speakers):
        for digit in range(10):
            for take in range(takes):
                time = np.arange(int(rate * (0.2 + 0.05 * take))) / rate
                tone = np.sin(2 * np.pi * (300 + 100 * digit + 10 * number + take) * time)
                wavfile.write(folder / f"{digit}_{speaker}_{take}.wav", rate, (tone * 20000).astype(np.int16))
    return folder


def test_no_speaker_is_in_two_splits_and_each_digit_is_said(tmp_path: Path) -> None:
    spectrogram = Spectrogram(seconds=0.3, frames=2)
    speech = Speech(str(record(tmp_path / "voices", ["ann", "ben", "cai", "dee"])), spectrogram)
    assert sorted(speech.splits.values()) == ["test", "train", "train", "val"]
    digits = np.arange(10).repeat(5)
    heard = {}
    for split in ("train", "val", "test"):
        tokens, padding = speech.draw(np.random.default_rng(0), digits, split)
        assert tokens.shape == (50, spectrogram.length, spectrogram.features)
        loudest = tokens[:, 0, : spectrogram.bins].argmax(axis=1) * RATE / spectrogram.n_fft
        assert (np.abs(loudest - (300 + 100 * digits)) < 80).all()
        assert padding.any()  # 0.2 and 0.25 of 0.3 s
        heard[split] = {each.tobytes() for each in tokens}
    assert not heard["train"] & heard["val"]
    assert not heard["val"] & heard["test"]
    assert not heard["train"] & heard["test"]


def test_spectrograms_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, spectrogram = record(tmp_path / "voices", ["ann", "ben", "cai"]), Spectrogram(seconds=0.3, frames=2)
    first = Speech(str(folder), spectrogram)
    with monkeypatch.context() as patch:
        patch.setattr("ablab.tasks.multimodal.digits.read_wave", None)  # nobody calls it
        again = Speech(str(folder), spectrogram)
    digits = np.arange(10)
    for one, other in zip(*(s.draw(np.random.default_rng(1), digits, "val") for s in (first, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    record(folder, ["ann"], takes=3)
    assert Speech(str(folder), spectrogram).sha256 != first.sha256
    assert len(list((cache.cache_folder() / "spectrograms").iterdir())) == 2


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32])
def test_whatever_wav_it_is_the_sound_is_the_same(dtype: type, tmp_path: Path) -> None:
    rate, time = 16_000, np.arange(8_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    both = np.stack([tone, tone], axis=1)
    scales: dict[type, int] = {np.int16: 2**15, np.int32: 2**31, np.uint8: 128, np.float32: 1}
    scale = scales[dtype]
    wavfile.write(tmp_path / "a.wav", rate, (both * scale + (128 if dtype == np.uint8 else 0)).astype(dtype))
    wave = read_wave(tmp_path / "a.wav")
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(4_000) / RATE)
    np.testing.assert_allclose(wave[200:-200], expected[200:-200], atol=0.02)


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


LIST = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 15) + b"Lavf58.29.10000\0")
OTHERS = {"no other chunk": (b"", b""), "a LIST": (LIST, b""), "others": (chunk(b"JUNK", b"x" * 27), LIST)}


def as_written(tone: NDArray[Any], rate: int, kind: str, channels: int, extensible: bool, others: str) -> bytes:
    """A WAV file as recorders write it: "i24" of whole numbers, "f32" of real ones; header and samples byte by byte."""
    bits, real = int(kind[1:]), kind[0] == "f"
    width, tag = bits // 8, 3 if real else 1
    header = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else tag, channels, rate, rate * channels * width, channels * width, bits
    )
    if extensible:
        header += struct.pack("<HHIH", 22, bits, 0, tag) + bytes.fromhex("000000001000800000aa00389b71")
    every = np.repeat(tone, channels)
    if real:
        samples = every.astype(f"<f{width}").tobytes()
    elif bits == 8:
        samples = np.round(every * 127 + 128).astype(np.uint8).tobytes()
    else:
        levels = np.round(every * (2 ** (bits - 1) - 1)).astype("<i8")
        samples = levels.view(np.uint8).reshape(-1, 8)[:, :width].tobytes()
    before, after = OTHERS[others]
    body = b"WAVE" + chunk(b"fmt ", header) + before + chunk(b"data", samples) + after
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["i8", "i16", "i24", "i32", "f32", "f64"])
@pytest.mark.parametrize("rate", [8000, 11025, 44_100, 48_000])
def test_recordings_as_people_have_them(tmp_path: Path, kind: str, rate: int) -> None:
    """At any rate, with either header, with chunks that hold no sound, in mono and stereo: the same sound."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)
    for channels, extensible, others in itertools.product((1, 2), (False, True), OTHERS):
        (tmp_path / "a.wav").write_bytes(as_written(tone, rate, kind, channels, extensible, others))
        wave = read_wave(tmp_path / "a.wav")
        assert len(wave) == RATE // 2
        np.testing.assert_allclose(wave[200:-200], expected[200:-200], atol=0.02)


@pytest.mark.parametrize("rate", [1, 999, 1_000_000, 2**31 - 1])
def test_a_rate_at_which_nobody_records_is_refused(tmp_path: Path, rate: int) -> None:
    """It would be resampled to gigabytes."""
    (tmp_path / "a.wav").write_bytes(as_written(TONE, rate, "i8", 1, False, "a LIST"))
    with pytest.raises(UserError, match=rf"a\.wav: {rate:,} samples a second .* replace or remove it"):
        read_wave(tmp_path / "a.wav")


def wav(samples: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, RATE, samples)
    return file.getvalue()


TONE = np.sin(np.arange(800) / 3).astype(np.float32)


@pytest.mark.parametrize("kept", [0, 3, 8, 13, 21, 30, 40, 44, 45, 400, 1500])
@pytest.mark.filterwarnings("error")
def test_a_recording_that_was_cut_off_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(wav((TONE * 20000).astype(np.int16))[:kept])
    with pytest.raises(UserError, match=r"a\.wav: (not a WAV file that can be read|holds no sound)") as caught:
        read_wave(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "says"),
    [
        (np.zeros(800, np.int16), "is silent from beginning to end"),
        (np.full(800, 128, np.uint8), "is silent"),
        (np.where(np.arange(800) == 5, np.nan, TONE).astype(np.float32), "holds samples that are no numbers"),
        (np.where(np.arange(800) == 5, np.inf, TONE).astype(np.float32), "holds samples that are no numbers"),
        (TONE[:0], "holds no sound"),
    ],
)
def test_a_recording_of_nothing_is_named(tmp_path: Path, samples: NDArray[Any], says: str) -> None:
    (tmp_path / "a.wav").write_bytes(wav(samples))
    with pytest.raises(UserError, match=says):
        read_wave(tmp_path / "a.wav")


def test_bad_folders_are_told_in_one_line(tmp_path: Path) -> None:
    spectrogram = Spectrogram(seconds=0.3, frames=2)
    with pytest.raises(UserError, match="no such folder"):
        Speech(str(tmp_path / "nowhere"), spectrogram)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no recordings named"):
        Speech(str(tmp_path / "empty"), spectrogram)
    folder = record(tmp_path / "voices", ["ann", "ben"])
    with pytest.raises(UserError, match="2 speakers"):
        Speech(str(folder), spectrogram)
    record(folder, ["cai"])
    for path in folder.glob("7_cai_*.wav"):
        path.unlink()
    with pytest.raises(UserError, match=r"no recording of 7 by (cai|.*cai.*)"):
        Speech(str(folder), spectrogram)
    (folder / "7_cai_0.wav").write_bytes(b"RIFF, or not")
    with pytest.raises(UserError, match=r"7_cai_0\.wav: not a WAV file"):
        Speech(str(folder), spectrogram)


def test_another_speaker_moves_at_most_whom_the_hash_puts_first() -> None:
    splits = split_speakers(["george", "jackson", "lucas", "nicolas", "theo", "yweweler"], "")
    assert sorted(splits.values()) == ["test", "train", "train", "train", "train", "val"]


def test_too_short_a_sound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.seconds=0\.01"):
        Spectrogram(seconds=0.01, frames=2)
    with pytest.raises(ValueError, match=r"task\.frames=0"):
        Spectrogram(seconds=1, frames=0)
    with pytest.raises(ValueError, match=r"task\.snr_db="):
        Dialling(Spectrogram(seconds=1, frames=1), snr_db=(3, 1))


@pytest.mark.skipif(not SPOKEN.is_dir(), reason=f"no recordings in {SPOKEN}")
def test_the_free_spoken_digits(tmp_path: Path) -> None:
    speech = Speech(str(SPOKEN), Spectrogram(seconds=0.6, frames=2))
    assert speech.files == 3000
    assert len(speech.splits) == 6
    tokens, padding = speech.draw(np.random.default_rng(0), np.arange(10).repeat(10), "test")
    assert np.isfinite(tokens).all()
    assert 0 < padding.mean() < 0.5
