"""Speech for the base model: espeak-ng, MBROLA, flite, RHVoice and pico2wave in many voices, and CMU AN4.

    python recipes/base/make.py speech

Utterances are wav files. Each thousand of them has a manifest, so that a killed run resumes with the next thousand.
Noise and room acoustics are not part of the files: training adds them, drawn anew each time.
"""

from __future__ import annotations

import functools
import json
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

from adapt.errors import DataError
from adapt.model.features import SAMPLE_RATE, read_audio
from adapt.text.normalise import NORMALISERS

TEST_VARIANTS = ("m5", "f4")  # and flite slt: not used in any training stage
DEV_VARIANTS = ("m7", "f2")
VARIANTS = [
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "m8",
    "f1",
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
# Diphones of human speakers, driven by espeak-ng. "-en": the speaker's language is another one, the speech English.
MBROLA = (
    "us1",
    "us1",
    "us2",
    "us2",
    "af1-en",
    "de1-en",
    "de2-en",
    "de3-en",
    "de4-en",
    "de5-en",
    "de6-en",
    "fr4-en",
    "hu1-en",
    "nl2-en",
    "pl1-en",
    "ro1-en",
    "sw1-en",
)
DEV_MBROLA = ("us3", "sw2-en")
ACCENTS = ("en-us", "en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029")
FLITE = ("kal16", "awb", "rms")
RHVOICE = ("clb", "clb", "clb", "bdl", "alan")
PICO = ("en-US", "en-GB")
DEV_SPEAKERS = 8  # of the 74 in the training split of AN4
PART = 1_000  # utterances with a common manifest
LISTS = 6  # one utterance in so many is a list of words
MAX_SECONDS = 8.0


@dataclass(frozen=True)
class Voice:
    engine: str  # espeak, flite, rhvoice or pico
    name: str
    rate: float  # words a minute for espeak, a factor for the others (flite: of duration)
    pitch: int  # 0..99 for espeak, percent for rhvoice and pico
    warp: float  # factor by which the recording is sped up: pitch, formants and tempo together


def draw_voice(rng: random.Random) -> Voice:
    """Draw a training voice."""
    kind = rng.random()
    warp = rng.uniform(0.85, 1.2)
    if kind < 0.25:
        name = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
        warp = rng.uniform(0.9, 1.12)  # the variants already differ
        return Voice("espeak", name, rng.uniform(140, 200) / warp, rng.randint(25, 75), warp)
    if kind < 0.6:
        name = f"mb-{rng.choice(MBROLA)}"
        return Voice("espeak", name, rng.uniform(130, 190) / warp, rng.randint(30, 70), warp)
    if kind < 0.78:
        warp = rng.uniform(0.85, 1.3)  # three men: sped up, they sound like women
        return Voice("flite", rng.choice(FLITE), rng.uniform(0.8, 1.15) * warp, 0, warp)
    if kind < 0.94:
        return Voice("rhvoice", rng.choice(RHVOICE), rng.uniform(0.8, 1.25) / warp, rng.randint(85, 120), warp)
    return Voice("pico", rng.choice(PICO), rng.uniform(0.85, 1.2) / warp, rng.randint(80, 125), warp)


def held_out_voice(kind: str, rng: random.Random) -> Voice:
    """Draw a voice of a test set (`espeak`, or `slt` of flite) or development set (`dev-espeak`, `dev-mbrola`)."""
    if kind == "slt":
        return Voice("flite", "slt", rng.uniform(0.9, 1.1), 0, 1.0)
    if kind == "dev-mbrola":
        return Voice("espeak", f"mb-{rng.choice(DEV_MBROLA)}", rng.uniform(140, 170), 50, 1.0)
    variants = DEV_VARIANTS if kind == "dev-espeak" else TEST_VARIANTS
    name = f"{rng.choice(('en-us', 'en-gb'))}+{rng.choice(variants)}"
    return Voice("espeak", name, rng.uniform(150, 180), 50, 1.0)


def speak(text: str, voice: Voice) -> np.ndarray:
    """Synthesise `text`: float32 samples at 16 kHz."""
    rate, pitch, name, said = voice.rate, voice.pitch, voice.name, None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speech.wav"
        if voice.engine == "espeak":
            command = ["espeak-ng", "-v", name, "-s", f"{rate:.0f}", "-p", str(pitch), "-w", str(out), text]
        elif voice.engine == "flite":
            command = ["flite", "-voice", name, "--setf", f"duration_stretch={rate:.2f}", "-t", text, "-o", str(out)]
        elif voice.engine == "rhvoice":
            command = ["RHVoice-test", "-p", name, "-r", f"{100 * rate:.0f}", "-t", str(pitch), "-o", str(out)]
            said = text
        else:
            marked = f'<pitch level="{pitch}"><speed level="{100 * rate:.0f}">{text}</speed></pitch>'
            command = ["pico2wave", "-l", name, "-w", str(out), marked]
        subprocess.run(command, check=True, capture_output=True, input=said and said.encode())
        samples = read_audio(out)
    return samples if voice.warp == 1.0 else _sped_up(samples, voice.warp)


def _sped_up(samples: np.ndarray, faster: float) -> np.ndarray:
    return resample_poly(samples, 100, round(100 * faster)).astype(np.float32)


def _int16(samples: np.ndarray) -> np.ndarray:
    peak = max(1.0, float(np.abs(samples).max()))
    return (samples / peak * 32_767).astype(np.int16)


def utterance(job: tuple[str, Voice]) -> tuple[str, str, np.ndarray] | None:
    """(text, voice name, int16 samples) of one job, or None if the engine fails or the length is out of bounds."""
    text, voice = job
    try:
        samples = speak(text, voice)
    except (subprocess.CalledProcessError, DataError):
        return None
    if not 0.3 <= len(samples) / SAMPLE_RATE <= MAX_SECONDS:
        return None
    return text, f"{voice.engine} {voice.name}", _int16(samples)


def espeak_variants(names: Sequence[str]) -> list[tuple[str, str, str | None]]:
    """Variants of espeak-ng for `need_voices`."""
    return [("espeak", f"{ACCENTS[0]}+{name}", f"{ACCENTS[0]}+none") for name in names]


def rhvoice_voices() -> list[tuple[str, str, str | None]]:
    """The voices of RHVoice for `need_voices`."""
    return [("rhvoice", name, "none" if name != "alan" else None) for name in RHVOICE]  # its default voice is alan


def all_voices() -> list[tuple[str, str, str | None]]:
    """The voices of all sets of this recipe for `need_voices`."""
    named = [("espeak", f"mb-{name}", None) for name in (*MBROLA, *DEV_MBROLA)]
    named += espeak_variants((*VARIANTS, *TEST_VARIANTS, *DEV_VARIANTS))
    named += [("espeak", name, None) for name in ACCENTS]
    named += [("flite", name, "none") for name in (*FLITE, "slt")]
    return [*named, *rhvoice_voices(), *(("pico", name, None) for name in PICO)]


def need_voices(named: Sequence[tuple[str, str, str | None]]) -> None:
    """Raise DataError if voices are not installed. Each has an engine, a name, and what is heard without it, or None.

    If a voice is missing, some engines fail, and its utterances would be missing. Others silently use another voice.
    """

    @functools.cache
    def said(engine: str, name: str) -> bytes:
        espeak = engine == "espeak"
        return speak("hello", Voice(engine, name, 160.0 if espeak else 1.0, 50 if espeak else 100, 1.0)).tobytes()

    silent = []
    for engine, name, instead in dict.fromkeys(named):
        try:
            if not instead or said(engine, name) != said(engine, instead):
                said(engine, name)
                continue
        except (OSError, subprocess.CalledProcessError, DataError):
            pass
        silent.append(f"{engine} {name}")
    if silent:
        raise DataError(f"speech: {', '.join(silent)}: no such voice; install it as recipes/base/README.md says")


def write_part(folder: Path, kind: str, number: int, utterances: Sequence[tuple[str, str, np.ndarray]]) -> None:
    """Write utterances as `audio/KIND-NNNN/IIII.wav` and, last, their manifest `audio/KIND-NNNN.jsonl`."""
    part = folder / f"audio/{kind}-{number:04d}"
    part.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, (text, voice, samples) in enumerate(utterances):
        audio = part / f"{i:04d}.wav"
        soundfile.write(audio, samples, SAMPLE_RATE)
        row = {"id": f"{part.name}-{i:04d}", "audio": str(audio.relative_to(folder)), "text": text, "voice": voice}
        lines.append(json.dumps(row))
    (folder / "audio/partial.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "audio/partial.jsonl").replace(part.with_suffix(".jsonl"))


def write_manifest(folder: Path, name: str, kinds: Sequence[str]) -> None:
    """Write `NAME.jsonl`: the parts of each kind, concatenated."""
    parts = [part for kind in kinds for part in sorted((folder / "audio").glob(f"{kind}-[0-9]*.jsonl"))]
    text = "".join(part.read_text(encoding="utf-8") for part in parts)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def covering(sentences: Sequence[str]) -> list[str]:
    """All sentences, ordered so that the first ones contain as many different words as possible, each a few times.

    >>> covering(["a b", "b a", "a c", "b a a"])
    ['a b', 'a c', 'b a', 'b a a']
    """
    spoken: Counter[str] = Counter()
    ordered, left, enough = [], sentences, 1
    while left:
        later = []
        for sentence in left:
            words = sentence.split()
            if min(spoken[word] for word in words) < enough:
                spoken.update(words)
                ordered.append(sentence)
            else:
                later.append(sentence)
        left, enough = later, 2 * enough
    return ordered


def known_words(sentences: Sequence[str]) -> list[str]:
    """All words that occur at least three times."""
    counts = Counter(word for sentence in sentences for word in sentence.split())
    return sorted(word for word, occurs in counts.items() if occurs >= 3)


def word_list(words: Sequence[str], rng: random.Random) -> str:
    """Unrelated words. From common sentences alone a model learns those sentences, and not how letters sound."""
    return " ".join(rng.sample(words, rng.randint(2, 6)))


def synthesise(sentences: list[str], folder: Path, count: int, processes: int, report) -> None:
    """Synthesise `count` training utterances, each in a new voice.

    The sentences are used in turn. One utterance in LISTS is a list of words instead.
    """
    words, sentences = known_words(sentences), covering(sentences)
    with Pool(processes) as pool:
        for number in range(count // PART):
            if (folder / f"audio/train-{number:04d}.jsonl").exists():
                continue
            rng = random.Random(number)
            chosen = [sentences[(number * PART + i) % len(sentences)] for i in range(PART)]
            chosen = [word_list(words, rng) if rng.random() < 1 / LISTS else s for s in chosen]
            jobs = [(text, draw_voice(rng)) for text in chosen]
            write_part(folder, "train", number, [u for u in pool.imap(utterance, jobs, chunksize=10) if u])
            report(f"speech: {(number + 1) * PART:,} of {count:,} utterances")


def held_out_set(sentences: list[str], folder: Path, kind: str) -> None:
    """Synthesise `sentences` in the voices held out for `kind`; see `held_out_voice`."""
    rng = random.Random(kind)
    jobs = [(text, held_out_voice(kind, rng)) for text in sentences]
    write_part(folder, kind, 0, [u for u in map(utterance, jobs) if u])


def human_sets(data: Path, folder: Path) -> None:
    """Convert CMU AN4.

    `human` is for training, also slowed down and sped up. `dev-human` has other speakers. `an4` is the test split.
    """
    normalise = NORMALISERS["basic"]
    sets: dict[str, list] = {"human": [], "dev-human": [], "an4": []}
    items = [json.loads(line) for line in (data / "an4/manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    speakers = sorted({item["id"].split("-")[1] for item in items if item["split"] == "train"})
    for item in items:
        text, samples = normalise(item["text"]), read_audio(data / "an4" / item["audio"])
        kind = "an4" if item["split"] == "test" else "human"
        if kind == "human" and item["id"].split("-")[1] in speakers[:: len(speakers) // DEV_SPEAKERS][:DEV_SPEAKERS]:
            kind = "dev-human"
        for faster in (1.0, 0.87, 0.94, 1.07, 1.14) if kind == "human" else (1.0,):
            sets[kind].append((text, "human", _int16(_sped_up(samples, faster) if faster != 1.0 else samples)))
    for kind, utterances in sets.items():
        if utterances:
            write_part(folder, kind, 0, utterances)
