"""Speech for the base model: espeak-ng, flite and festival, perturbed, with noise and rooms, as log-mel shards.

    python recipes/base/make.py speech

A shard is a pair of files, `NNNN.npy` (features of all its utterances, half precision, frames x 80) and
`NNNN.jsonl` (a line an utterance: text, voice, frames), so that a killed run goes on at the next shard.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, resample_poly

from adapt.model.features import SAMPLE_RATE, log_mel, read_audio
from adapt.text.normalise import NORMALISERS

HELD_OUT_VARIANTS = ("m5", "f4")  # and flite slt: never trained on
VARIANTS = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f5",
    "Alex",
    "Alicia",
    "Andy",
    "Annie",
    "Denis",
    "Gene",
    "Hugo",
    "Lee",
    "Marco",
    "Mario",
    "Michael",
    "Mike",
    "Nguyen",
    "Storm",
    "adam",
    "anika",
    "antonio",
    "belinda",
    "benjamin",
    "boris",
    "caleb",
    "david",
    "ed",
    "edward",
    "grandma",
    "grandpa",
    "gustave",
    "iven",
    "john",
    "klatt",
    "linda",
    "marcelo",
    "max",
    "michel",
    "miguel",
    "norbert",
    "pablo",
    "paul",
    "pedro",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "shelby",
    "steph",
    "travis",
    "victor",
]
ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029")
FLITE = ("kal16", "awb", "rms", "rms")
SHARD = 1_000
MAX_SECONDS = 8.0


@dataclass(frozen=True)
class Voice:
    engine: str  # espeak, flite or festival
    name: str
    rate: float  # words a minute for espeak, a duration factor for the others
    pitch: int  # 0..99, espeak alone
    warp: float  # the recording is played this much faster: pitch, formants and tempo together


def draw_voice(rng: random.Random) -> Voice:
    """A training voice."""
    kind = rng.random()
    warp = rng.uniform(0.8, 1.25)
    if kind < 0.55:
        name = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
        warp = rng.uniform(0.9, 1.12)  # the variants differ already
        return Voice("espeak", name, rng.uniform(140, 200) / warp, rng.randint(25, 75), warp)
    if kind < 0.93:
        return Voice("flite", rng.choice(FLITE), rng.uniform(0.85, 1.2) * warp, 0, warp)
    return Voice("festival", "ked_diphone", rng.uniform(0.85, 1.2) * warp, 0, warp)


def held_out_voice(kind: str, rng: random.Random) -> Voice:
    """A voice of one of the sets `espeak` (variants that were never trained on) and `slt` (flite)."""
    if kind == "slt":
        return Voice("flite", "slt", rng.uniform(0.9, 1.1), 0, 1.0)
    name = f"{rng.choice(('en-us', 'en-gb'))}+{rng.choice(HELD_OUT_VARIANTS)}"
    return Voice("espeak", name, rng.uniform(150, 180), 50, 1.0)


def speak(text: str, voice: Voice) -> np.ndarray:
    """Samples at 16 kHz, before any noise."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speech.wav"
        if voice.engine == "espeak":
            command = ["espeak-ng", "-v", voice.name, "-s", f"{voice.rate:.0f}", "-p", str(voice.pitch)]
            command += ["-w", str(out), text]
        elif voice.engine == "flite":
            stretch = f"duration_stretch={voice.rate:.2f}"
            command = ["flite", "-voice", voice.name, "--setf", stretch, "-t", text, "-o", str(out)]
        else:
            source = Path(folder) / "text"
            source.write_text(text)
            setup = f"(begin (voice_{voice.name}) (Parameter.set 'Duration_Stretch {voice.rate:.2f}))"
            command = ["text2wave", "-eval", setup, "-o", str(out), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        samples = read_audio(out)
    if voice.warp != 1.0:
        samples = resample_poly(samples, 100, round(100 * voice.warp)).astype(np.float32)
    return samples


def disturb(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Add a room (a third of the time), coloured noise, and a channel's spectral tilt."""
    noise_rng = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.33:
        length = int(SAMPLE_RATE * rng.uniform(0.05, 0.3))
        room = noise_rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
        room *= rng.uniform(0.1, 0.5) / np.sqrt((room**2).sum())
        room[0] = 1.0
        samples = fftconvolve(samples, room)[: len(samples)]
    if rng.random() < 0.5:
        tilt = rng.uniform(-0.6, 0.6)
        samples = np.append(samples[:1], samples[1:] - tilt * samples[:-1])
    noise = noise_rng.standard_normal(len(samples))
    if rng.random() < 0.5:
        noise = fftconvolve(noise, rng.uniform(0.6, 0.95) ** np.arange(64))[: len(samples)]
    level = np.sqrt((samples**2).mean() / ((noise**2).mean() + 1e-12)) * 10 ** (-rng.uniform(8, 40) / 20)
    return (samples + level * noise).astype(np.float32)


def utterance(job: tuple[str, Voice, int, bool]) -> tuple[str, str, np.ndarray] | None:
    """(text, voice name, features [frames, 80]) of one job (text, voice, seed, whether to disturb)."""
    text, voice, seed, noisy = job
    try:
        samples = speak(text, voice)
    except subprocess.CalledProcessError:
        return None
    if not 0.3 <= len(samples) / SAMPLE_RATE <= MAX_SECONDS:
        return None
    rng = random.Random(seed)
    samples = disturb(samples, rng) if noisy else samples
    return text, f"{voice.engine}:{voice.name}", log_mel(samples).half().numpy()


def write_shard(folder: Path, number: int, utterances: list[tuple[str, str, np.ndarray]]) -> None:
    stem = folder / f"{number:04d}"
    np.save(folder / "partial.npy", np.concatenate([features for _, _, features in utterances]))
    lines = [
        json.dumps({"text": text, "voice": voice, "frames": len(features)}) for text, voice, features in utterances
    ]
    (folder / "partial.npy").replace(stem.with_suffix(".npy"))
    # The index is written last: a shard without one is not there.
    (folder / "partial.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "partial.jsonl").replace(stem.with_suffix(".jsonl"))


def synthesise(sentences: list[str], folder: Path, count: int, processes: int, report) -> None:
    """Speak `count` utterances (sentences in turn, a new voice each time) into `folder/train`."""
    folder = folder / "train"
    folder.mkdir(parents=True, exist_ok=True)
    with Pool(processes) as pool:
        for number in range(count // SHARD):
            if (folder / f"{number:04d}.jsonl").exists():
                continue
            rng = random.Random(number)
            chosen = [sentences[(number * SHARD + i) % len(sentences)] for i in range(SHARD)]
            jobs = [(text, draw_voice(rng), rng.getrandbits(32), True) for text in chosen]
            write_shard(folder, number, [u for u in pool.imap(utterance, jobs, chunksize=20) if u])
            report(f"speech: {(number + 1) * SHARD:,} of {count:,} utterances")


def held_out_sets(sentences: list[str], folder: Path, count: int = 300) -> None:
    """`count` held-out sentences in each set of held-out voices, without added noise, in `folder/espeak` and `slt`."""
    for kind in ("espeak", "slt"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        rng = random.Random(kind)
        jobs = [(text, held_out_voice(kind, rng), 0, False) for text in sentences[:count]]
        write_shard(folder / kind, 0, [u for u in map(utterance, jobs) if u])


def human_sets(data: Path, folder: Path, copies: int = 6) -> None:
    """CMU AN4: the training split, `copies` times with different noise and speed, and the test split as it is."""
    rng, normalise = random.Random(4), NORMALISERS["basic"]
    train, test = [], []
    for line in (data / "an4/manifest.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        text, samples = normalise(item["text"]), read_audio(data / "an4" / item["audio"])
        if item["split"] == "test":
            test.append((text, "human", log_mel(samples).half().numpy()))
            continue
        for copy in range(copies):
            warped = samples
            if copy:
                warped = resample_poly(samples, 100, rng.randint(85, 118)).astype(np.float32)
                warped = disturb(warped, rng)
            train.append((text, "human", log_mel(warped).half().numpy()))
    for name, utterances in (("human", train), ("an4", test)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        write_shard(folder / name, 0, utterances)
