"""`adapt robustness`: WER in noise, between silences, by voice, by speaking rate and by length; base and adapted."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from adapt.decode.transcribe import transcribe
from adapt.errors import RecipeError
from adapt.model.features import SAMPLE_RATE, read_audio
from adapt.score.files import hypotheses_path
from adapt.score.results import Scores
from adapt.score.scoring import score_systems
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.systems import system_model
from adapt.stages.transcribe import stage_name, transcription
from adapt.text.clip import Clip
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import Utterance
from adapt.text.transcripts import read_hypotheses

SNRS = (20, 10, 5, 0)  # dB, over the whole recording
TALKERS = 6  # utterances mixed into babble
SILENCES = (0.5, 1.0)  # seconds before and after the speech

Noise = Callable[[int, np.random.Generator, Sequence[Utterance]], np.ndarray]
Distortion = Callable[[np.ndarray, Utterance], np.ndarray]


def white(length: int, rng: np.random.Generator, others: Sequence[Utterance]) -> np.ndarray:
    """Gaussian noise of `length` samples."""
    return rng.standard_normal(length)


def babble(length: int, rng: np.random.Generator, others: Sequence[Utterance]) -> np.ndarray:
    """The sum of TALKERS of the other utterances, equally loud, each repeated or cut to `length` samples."""
    talkers = [read_audio(others[i].audio) for i in rng.choice(len(others), min(TALKERS, len(others)), replace=False)]
    return sum(np.resize(talker, length) / (np.sqrt(np.mean(talker**2)) + 1e-9) for talker in talkers)


NOISES: dict[str, Noise] = {"white": white, "babble": babble}


def add_noise(speech: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """`speech` with `noise` of the same length, whose mean power is `snr` dB below that of the speech.

    >>> mixed = add_noise(np.array([2.0, -2.0]), np.array([1.0, 1.0]), 20.0)
    >>> mixed.round(3).tolist()
    [2.2, -1.8]
    """
    power = np.mean(speech**2) / (np.mean(noise**2) + 1e-12)
    return (speech + noise * np.sqrt(power / 10 ** (snr / 10))).astype(speech.dtype)


def in_noise(
    noise: str, snr: float, utterances: Sequence[Utterance], seed: int, samples: np.ndarray, utterance: Utterance
) -> np.ndarray:
    """`samples` of an utterance in noise, which is a function of the seed, the utterance and the noise."""
    rng = np.random.default_rng([seed, zlib.crc32(utterance.id.encode()), zlib.crc32(noise.encode())])
    others = [other for other in utterances if other.id != utterance.id]
    return add_noise(samples, NOISES[noise](len(samples), rng, others), snr)


def between_silences(seconds: float, samples: np.ndarray, utterance: Utterance) -> np.ndarray:
    """`samples` with their quietest 0.1 s, repeated to `seconds`, before and after them."""
    size = min(len(samples), SAMPLE_RATE // 10)
    energy = np.cumsum(np.concatenate([[0.0], np.square(samples, dtype=np.float64)]))
    quietest = int(np.argmin(energy[size:] - energy[:-size]))
    silence = np.resize(samples[quietest : quietest + size], round(seconds * SAMPLE_RATE))
    return np.concatenate([silence, samples, silence])


def distorted(utterance: Utterance, distort: Distortion, out: Path) -> Utterance:
    """The utterance with distorted audio, which is written to `out`."""
    soundfile.write(out, distort(read_audio(utterance.audio), utterance), SAMPLE_RATE, subtype="FLOAT")
    return dataclasses.replace(utterance, audio=Clip(out))


def groups(utterances: Sequence[Utterance], seconds: Mapping[str, float]) -> dict[str, list[Utterance]]:
    """The utterances of each voice, and thirds of all utterances by words per second and by seconds."""
    by_name: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.voice:
            by_name.setdefault(f"voice {utterance.voice}", []).append(utterance)
    by_name = dict(sorted(by_name.items())) if len(by_name) > 1 else {}
    rates = {u.id: len(u.text.split()) / seconds[u.id] for u in utterances}
    for names, values, unit in ((("slow", "fast"), rates, "words/s"), (("short", "long"), seconds, "s")):
        ordered = sorted(utterances, key=lambda u: values[u.id])
        third = len(ordered) // 3
        if third:
            low, high = values[ordered[third].id], values[ordered[-third].id]
            by_name[f"{names[0]}, below {low:.1f} {unit}"] = ordered[:third]
            by_name[f"{low:.1f} to {high:.1f} {unit}"] = ordered[third:-third]
            by_name[f"{names[1]}, from {high:.1f} {unit}"] = ordered[-third:]
    return by_name


@dataclass(frozen=True)
class Condition:
    """A condition for a set. distort: None leaves the audio unchanged."""

    set: str
    name: str
    distort: Distortion | None


def conditions(name: str, utterances: Sequence[Utterance], seed: int) -> list[Condition]:
    """The conditions of the set `name`: clean, each noise at each SNR, and each length of silence."""
    all_conditions = [Condition(name, "clean", None)]
    for noise in NOISES:
        for snr in SNRS:
            distort = functools.partial(in_noise, noise, snr, utterances, seed)
            all_conditions.append(Condition(name, f"{noise} {snr} dB", distort))
    for silence in SILENCES:
        all_conditions.append(Condition(name, f"silence {silence:g} s", functools.partial(between_silences, silence)))
    return all_conditions


def robustness(run: Run, name: str) -> Scores:
    """Score the base, and the adapted system if the run has one, on a set of the recipe under each condition.

    Raises RecipeError if the recipe has no set `name`.
    """
    recipe, manifests = run.recipe, plan.sets(run.recipe)
    if name not in manifests:
        way_out = f"choose one of {', '.join(manifests)}" if manifests else "name data.test"
        raise RecipeError(f"recipe.yaml: data: has no set {name!r}; {way_out}")
    utterances, seconds = run.manifests.spoken(manifests[name]), run.manifests.seconds(manifests[name])
    systems = ["base", *(["adapted"] if run.path(plan.ADAPTER).exists() else [])]
    sets, hyps = {}, {}
    for condition in conditions(name, utterances, recipe.seed):
        sets[condition.name] = utterances
        hyps[condition.name] = {system: _transcripts(run, condition, system) for system in systems}
    for group, members in groups(utterances, seconds).items():
        sets[group] = members
        hyps[group] = {system: {u.id: texts[u.id] for u in members} for system, texts in hyps["clean"].items()}
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    resamples = recipe.score.resamples
    return score_systems(sets, hyps, lexicon, recipe.data.normaliser, resamples=resamples, seed=recipe.seed)


def _transcripts(run: Run, condition: Condition, system: str) -> dict[str, str]:
    """The transcripts of a system under a condition by utterance id; a stage of its own."""
    recipe, label = run.recipe, f"{condition.name}, {system}"
    manifest = plan.sets(recipe)[condition.set]
    out = hypotheses_path(Path("robustness") / condition.set, condition.name, system)
    settings = {"transcribe": recipe.transcribe.search(), "base": plan.base_record(recipe)}
    settings |= {"condition": condition.name, "seed": recipe.seed}
    inputs = run.manifests.files(manifest) + (run.paths(plan.ADAPTER) if system == "adapted" else [])

    def write(unfinished: Path) -> None:
        utterances, distort = run.manifests.spoken(manifest), condition.distort
        with tempfile.TemporaryDirectory() as folder:
            if distort:
                utterances = [distorted(u, distort, Path(folder, f"{i}.wav")) for i, u in enumerate(utterances)]
            options = recipe.transcribe.search()
            transcribe(system_model(run, system), utterances, unfinished, label=label, **options)

    name = stage_name("robustness", condition.set, condition.name, system)
    result = transcription(run.folder, name, settings, inputs, out, write)
    run.report(result, f"{condition.set}, {label}")
    return read_hypotheses(run.path(str(out)))
