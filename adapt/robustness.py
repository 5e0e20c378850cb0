"""Where a system fails: WER in noise, between silences, by voice, by speaking rate and by length, beside the base."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from adapt.decode.transcribe import transcribe
from adapt.errors import DataError
from adapt.model.features import SAMPLE_RATE, read_audio
from adapt.score.files import hypotheses_path
from adapt.score.results import Scores
from adapt.score.scoring import score_systems
from adapt.stages.context import Run
from adapt.stages.plan import audio_of, base_of, sets_of
from adapt.stages.systems import system_of
from adapt.text.corpus import Utterance, durations, read_hypotheses, read_manifest
from adapt.text.lexicon import read_lexicon

SNRS = (20, 10, 5, 0)  # dB, over the whole recording
TALKERS = 6  # other utterances that make babble
SILENCES = (0.5, 1.0)  # seconds, before and behind what is said

Noise = Callable[[int, np.random.Generator, Sequence[Utterance]], np.ndarray]
Distortion = Callable[[np.ndarray, Utterance], np.ndarray]


def white(length: int, rng: np.random.Generator, others: Sequence[Utterance]) -> np.ndarray:
    """Gaussian noise."""
    return rng.standard_normal(length)


def babble(length: int, rng: np.random.Generator, others: Sequence[Utterance]) -> np.ndarray:
    """TALKERS of the others at once, equally loud, each again from its beginning when it ends."""
    talkers = [read_audio(others[i].audio) for i in rng.choice(len(others), min(TALKERS, len(others)), replace=False)]
    return sum(np.resize(talker, length) / (np.sqrt(np.mean(talker**2)) + 1e-9) for talker in talkers)


NOISES: dict[str, Noise] = {"white": white, "babble": babble}


def add_noise(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """`speech` and `noise`, as long, the noise at `snr` dB below the speech in mean power.

    >>> mixed = add_noise(np.array([2.0, -2.0]), np.array([1.0, 1.0]), 20.0)
    >>> mixed.round(3).tolist()
    [2.2, -1.8]
    """
    power = np.mean(speech**2) / (np.mean(noise**2) + 1e-12)
    return (speech + noise * np.sqrt(power / 10 ** (snr / 10))).astype(speech.dtype)


def distorted(
    noise: str, snr: float, utterances: Sequence[Utterance], seed: int, samples: np.ndarray, utterance: Utterance
) -> np.ndarray:
    """`samples` of an utterance in noise that is the same each time."""
    rng = np.random.default_rng([seed, zlib.crc32(utterance.id.encode()), zlib.crc32(noise.encode())])
    others = [other for other in utterances if other.id != utterance.id]
    return add_noise(samples, NOISES[noise](len(samples), rng, others), snr)


def between_silences(seconds: float, samples: np.ndarray, utterance: Utterance) -> np.ndarray:
    """`samples` of an utterance with so much of their own quietest 0.1 s before and behind them."""
    size = min(len(samples), SAMPLE_RATE // 10)
    energy = np.cumsum(np.concatenate([[0.0], np.square(samples, dtype=np.float64)]))
    quietest = int(np.argmin(energy[size:] - energy[:-size]))
    silence = np.resize(samples[quietest : quietest + size], round(seconds * SAMPLE_RATE))
    return np.concatenate([silence, samples, silence])


def changed(utterance: Utterance, distort: Distortion, out: Path) -> Utterance:
    """The utterance with its audio distorted, written to `out`."""
    soundfile.write(out, distort(read_audio(utterance.audio), utterance), SAMPLE_RATE, subtype="FLOAT")
    return dataclasses.replace(utterance, audio=out)


def groups(utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> dict[str, list[Utterance]]:
    """The utterances of each voice, and the thirds by words a second and by seconds."""
    found: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.voice:
            found.setdefault(f"voice {utterance.voice}", []).append(utterance)
    found = dict(sorted(found.items())) if len(found) > 1 else {}
    rates = {u.id: len(u.text.split()) / seconds[u.id] for u in utterances}
    for names, values, unit in ((("slow", "fast"), rates, "words/s"), (("short", "long"), seconds, "s")):
        ordered = sorted(utterances, key=lambda u: values[u.id])
        third = len(ordered) // 3
        if third:
            low, high = values[ordered[third].id], values[ordered[-third].id]
            found[f"{names[0]}, below {low:.1f} {unit}"] = ordered[:third]
            found[f"{low:.1f} to {high:.1f} {unit}"] = ordered[third:-third]
            found[f"{names[1]}, from {high:.1f} {unit}"] = ordered[-third:]
    return found


def robustness(run: Run, name: str) -> Scores:
    """Scores of base and, where it is there, adapted system on the recipe's set `name`, under each condition.

    Raises `DataError` when the recipe has no such set.
    """
    recipe, manifests = run.recipe, sets_of(run.recipe)
    if name not in manifests:
        raise DataError(f"{recipe.name}: has no set {name!r}; choose one of {', '.join(manifests) or 'none'}")
    utterances = read_manifest(manifests[name])
    seconds = durations(utterances)
    systems = ["base", *(["adapted"] if run.path("adapter").exists() else [])]
    conditions = {"clean": None}
    for noise in NOISES:
        for snr in SNRS:
            conditions[f"{noise} {snr} dB"] = functools.partial(distorted, noise, snr, utterances, recipe.seed)
    for silence in SILENCES:
        conditions[f"silence {silence:g} s"] = functools.partial(between_silences, silence)
    hyps = {
        condition: {
            system: _transcripts(run, manifests[name], utterances, name, condition, distort, system)
            for system in systems
        }
        for condition, distort in conditions.items()
    }
    sets = dict.fromkeys(conditions, utterances)
    for group, members in groups(utterances, seconds).items():
        sets[group] = members
        hyps[group] = {system: {u.id: texts[u.id] for u in members} for system, texts in hyps["clean"].items()}
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    how = {"resamples": recipe.score.resamples, "seed": recipe.seed}
    return score_systems(sets, hyps, lexicon, recipe.data.normaliser, **how)


def _transcripts(
    run: Run,
    manifest: Path,
    utterances: Sequence[Utterance],
    name: str,
    condition: str,
    distort: Distortion | None,
    system: str,
) -> dict[str, str]:
    out = hypotheses_path(Path("robustness") / name, condition, system)
    settings = {"transcribe": dataclasses.asdict(run.recipe.transcribe), "base": base_of(run.recipe)}
    settings |= {"condition": condition, "seed": run.recipe.seed}

    def work(scratch: Path) -> None:
        partial = scratch / "hyps.jsonl"
        more = {**dataclasses.asdict(run.recipe.transcribe), "label": f"{condition}, {system}"}
        with tempfile.TemporaryDirectory() as folder:
            heard = [changed(u, distort, Path(folder, f"{i}.wav")) for i, u in enumerate(utterances)] if distort else ()
            transcribe(system_of(run, system), heard or utterances, partial, **more)
        run.path(str(out.parent)).mkdir(parents=True, exist_ok=True)
        partial.replace(run.path(str(out)))

    inputs = [manifest, *audio_of(manifest), *([run.path("adapter")] if system == "adapted" else [])]
    stage = f"robustness-{name}-{condition}-{system}".replace(" ", "-")
    run.report(run.folder.stage(stage, settings, inputs, [str(out)], work), f"{name}, {condition}, {system}")
    return read_hypotheses(run.path(str(out)))
