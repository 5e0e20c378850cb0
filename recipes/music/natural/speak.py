"""Speak the test and development sentences of this recipe in neural voices: `python speak.py VOICES`.

    python -m venv voices-env && voices-env/bin/pip install piper-tts kokoro-onnx click
    voices-env/bin/python recipes/music/natural/speak.py VOICES

VOICES holds `en_US-joe-medium.onnx` with its `.onnx.json` (a voice of Piper), and `kokoro.onnx` with `voices.npz`
(Kokoro-82M). Half of the sentences are read by joe, an American, the other half by five Japanese speakers of Kokoro,
who read English with an accent. The voices are for tests alone: no base that this repository trains has heard them.

The manifests, `test.jsonl`, `dev.jsonl` and `source.jsonl`, have the sentences, entities and ids of `../test.jsonl`,
`../dev.jsonl` and `../source/test.jsonl`. The repository contains the audio, and only missing files are made.
It needs an environment of its own, because Kokoro needs a newer NumPy than pyctcdecode.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import click
import soundfile
import soxr

HERE = Path(__file__).resolve().parent
SETS = {"test": "../test.jsonl", "dev": "../dev.jsonl", "source": "../source/test.jsonl"}
KOKORO = ("jf_alpha", "jf_gongitsune", "jf_nezumi", "jf_tebukuro", "jm_kumo")
VOICES = tuple(voice for name in KOKORO for voice in ("piper en_US-joe", f"kokoro {name}"))
RATE = 16_000  # Hz
# The engines read a lone `a` as the article, but `A.` as the letter.
PRONOUNCED = {"a c d c": "A.C.D.C."}


class Speakers:
    """The two engines. folder: the files of their voices."""

    def __init__(self, folder: Path):
        from kokoro_onnx import Kokoro
        from piper import PiperVoice

        self.piper = PiperVoice.load(folder / "en_US-joe-medium.onnx")
        self.kokoro = Kokoro(str(folder / "kokoro.onnx"), str(folder / "voices.npz"))

    def say(self, text: str, voice: str, rate: float):
        """`text` by `voice`, an element of VOICES: float32 samples at 16 kHz with a peak of 0.6. rate: 1 is normal."""
        from piper import SynthesisConfig

        engine, name = voice.split()
        if engine == "kokoro":
            samples, own_rate = self.kokoro.create(text, voice=name, speed=rate, lang="en-us")
        else:
            (chunk,) = self.piper.synthesize(text, SynthesisConfig(length_scale=1 / rate))
            samples, own_rate = chunk.audio_float_array, chunk.sample_rate
        samples = soxr.resample(samples, own_rate, RATE)
        return 0.6 / max(abs(samples).max(), 1e-9) * samples


@click.command()
@click.argument("voices", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(voices: Path) -> None:
    """Write the manifests, and speak the sentences that have no audio file."""
    speakers = Speakers(voices)
    for name, source in SETS.items():
        lines = [json.loads(line) for line in (HERE / source).read_text(encoding="utf-8").splitlines()]
        rows = []
        for number, line in enumerate(lines):
            audio, voice = f"audio/{line['id']}.ogg", VOICES[number % len(VOICES)]
            rows.append({"id": line["id"], "audio": audio, "text": line["text"], "entities": line["entities"]})
            rows[-1]["voice"] = voice
            if (HERE / audio).exists():
                continue
            text = line["text"]
            for phrase, written in PRONOUNCED.items():
                text = text.replace(phrase, written)
            samples = speakers.say(text, voice, random.Random(line["id"]).uniform(0.9, 1.15))
            (HERE / audio).parent.mkdir(exist_ok=True)
            soundfile.write(HERE / audio, samples, RATE, format="OGG", subtype="OPUS", compression_level=0.95)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")
        click.echo(f"{name}.jsonl  {len(rows):,} lines", err=True)


if __name__ == "__main__":
    sys.exit(main())
