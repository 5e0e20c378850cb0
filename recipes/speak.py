"""Speak the utterances of manifests, each in the voice that its row names; audio that exists is kept.

    python recipes/speak.py recipes/music/*.jsonl recipes/music/source/*.jsonl      # needs espeak-ng and flite

Neural voices need an environment of their own, because Kokoro needs a newer NumPy than pyctcdecode:

    python -m venv voices-env && voices-env/bin/pip install piper-tts kokoro-onnx soundfile soxr click
    voices-env/bin/python recipes/speak.py recipes/medical/*.jsonl --voices VOICES

VOICES holds `en_US-joe-medium.onnx` with its `.onnx.json` (a voice of Piper), and `kokoro.onnx` with `voices.npz`
(Kokoro-82M). Half of the sentences are read by joe, an American, the other half by five Japanese speakers of Kokoro,
who read English with an accent. The voices are for tests alone: no base that this repository trains has heard them.
"""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np

RATE = 16_000  # Hz
HELD_OUT_ESPEAK = ("en-us+m5", "en-gb+f4", "en-gb+m5", "en-us+f4")
ESPEAK = tuple(
    f"{accent}+{variant}"
    for accent in ("en-us", "en-gb", "en-gb-scotland", "en-029")
    for variant in ("m1", "m2", "m3", "m4", "m6", "m7", "m8", "f1", "f2", "f3", "f5")
)
FLITE = ("kal16", "awb", "rms")
KOKORO = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
LETTERS = re.compile(r"(?<![\w'])[a-z](?: [a-z])+(?![\w'])")


def deck(items: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Yield all items in random order, shuffle, and repeat for ever, so that all items occur equally often."""
    while True:
        yield from rng.sample(items, len(items))


def held_out_voices() -> Iterator[str]:
    """Voices that do not occur in training: two thirds espeak-ng, one third flite."""
    espeak = itertools.cycle(HELD_OUT_ESPEAK)
    while True:
        yield from (f"espeak-ng {next(espeak)}", f"espeak-ng {next(espeak)}", "flite slt")


def training_voices() -> Iterator[str]:
    """Repeat: three of many espeak-ng voices, then one of flite."""
    rng = random.Random("voices")
    espeak, flite = deck(ESPEAK, rng), deck(FLITE, rng)
    while True:
        yield from (f"espeak-ng {next(espeak)}" for _ in range(3))
        yield f"flite {next(flite)}"


def natural_voices() -> Iterator[str]:
    """Neural voices: half joe, half speakers of Kokoro."""
    for name in itertools.cycle(KOKORO):
        yield from ("piper en_US-joe", f"kokoro {name}")


def synthesise(text: str, voice: str, seed: str) -> np.ndarray:
    """Synthesise a sentence by espeak-ng or flite: float32 (samples,) at 16 kHz, white noise at 20 to 35 dB SNR."""
    import numpy as np
    import soundfile
    from scipy.signal import resample_poly

    rng = random.Random(seed)
    engine, name = voice.split()
    held_out = name in HELD_OUT_ESPEAK
    rate = rng.randint(150, 180) if held_out else rng.randint(140, 195)
    pitch = rng.randint(40, 60) if held_out else rng.randint(30, 70)
    text = as_read(text, engine)
    with tempfile.TemporaryDirectory() as folder:
        wav = str(Path(folder) / "speech.wav")
        command = {
            "espeak-ng": ["espeak-ng", "-v", name, "-s", str(rate), "-p", str(pitch), "-w", wav, text],
            "flite": ["flite", "-voice", name, "-t", text, "-o", wav],
        }[engine]
        subprocess.run(command, check=True, capture_output=True)
        speech, own_rate = soundfile.read(wav, dtype="float64")
    speech = resample_poly(speech, RATE, own_rate)
    speech *= 0.6 / max(abs(speech).max(), 1e-9)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(speech))
    snr = rng.uniform(20, 35)
    return (speech + noise * np.sqrt((speech**2).mean()) * 10 ** (-snr / 20)).astype(np.float32)


def as_read(text: str, engine: str) -> str:
    """The text as an engine must get it, so that `a` among letters is read as a letter and not as the article.

    The neural engines read by espeak-ng, for which the letter is `eh`.

    >>> as_read("am i a fan of a c d c or r e m", "piper"), as_read("play a c d c", "flite")
    ('am i a fan of eh c d c or r e m', 'play A.C.D.C.')
    """

    def spelled(match: re.Match[str]) -> str:
        letters = match[0].split()
        if "a" not in letters or letters == ["i", "a"]:
            return match[0]
        if engine == "flite":
            return "".join(f"{letter.upper()}." for letter in letters)
        return " ".join("eh" if letter == "a" else letter for letter in letters)

    return LETTERS.sub(spelled, text)


class Speakers:
    """The neural engines. folder: the files of their voices."""

    def __init__(self, folder: Path):
        from kokoro_onnx import Kokoro
        from piper import PiperVoice

        self.piper = PiperVoice.load(folder / "en_US-joe-medium.onnx")
        self.kokoro = Kokoro(str(folder / "kokoro.onnx"), str(folder / "voices.npz"))

    def say(self, text: str, voice: str, seed: str) -> np.ndarray:
        """`text` by `voice`, an element of `natural_voices`: float32 (samples,) at 16 kHz with a peak of 0.6."""
        import soxr
        from piper import SynthesisConfig

        engine, name = voice.split()
        rate = random.Random(seed).uniform(0.9, 1.15)  # 1 is normal
        text = as_read(text, engine)
        if engine == "kokoro":
            samples, own_rate = self.kokoro.create(text, voice=name, speed=rate, lang="en-us")
        else:
            (chunk,) = self.piper.synthesize(text, SynthesisConfig(length_scale=1 / rate))
            samples, own_rate = chunk.audio_float_array, chunk.sample_rate
        samples = soxr.resample(samples, own_rate, RATE)
        return 0.6 / max(abs(samples).max(), 1e-9) * samples


def write_audio(path: Path, speech: np.ndarray) -> None:
    """Write mono Ogg/Opus at about 20 kbit/s, at once, so that a file which exists is whole."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    soundfile.write(unfinished, speech, RATE, format="OGG", subtype="OPUS", compression_level=0.95)
    unfinished.replace(path)


@click.command()
@click.argument("manifests", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--voices", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Files of neural voices.")
def main(manifests: tuple[Path, ...], voices: Path | None) -> None:
    """Speak the utterances of MANIFESTS that have no audio file."""
    speakers = functools.cache(Speakers)
    for manifest in manifests:
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        missing = [row for row in rows if not (manifest.parent / row["audio"]).exists()]
        for row in missing:
            neural = row["voice"].split()[0] in ("piper", "kokoro")
            if neural and not voices:
                raise click.UsageError(f"{manifest}: {row['id']} has a neural voice; name their folder by --voices")
            say = speakers(voices).say if neural else synthesise
            write_audio(manifest.parent / row["audio"], say(row["text"], row["voice"], row["id"]))
        click.echo(f"{manifest}  {len(missing):,} of {len(rows):,} utterances spoken", err=True)


if __name__ == "__main__":
    main()
