"""Stage `test`: score the base, and measure how its audio embeddings align with the transcript."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapt.build.context import Build
from adapt.errors import ModelError, RecipeError
from adapt.recipe.load import dump
from adapt.run import read_json, write_json
from adapt.score.files import hypotheses_path
from adapt.score.results import Scores
from adapt.stages.transcribe import transcription
from adapt.text.manifest import Utterance
from adapt.text.normalise import NORMALISERS
from adapt.text.transcripts import read_hypotheses

PICTURES = 6  # pictures of the alignment, at least, if the test set has as many utterances
MONOTONICITY = "alignment/monotonicity.json"


@dataclass(frozen=True)
class BaseScores:
    """The result of the stage `test`.

    scores: of the encoder alone (`ctc`, or `first-pass` where it transcribes) and of the speech LLM (`llm`), over all
    utterances, by language and by voice.
    means: the mean over languages of the WER of each system; empty for one language. monotonicity: of the alignment of
    audio embeddings with `letters` and with `tokens` of the transcript (`model.cosine_alignment`), as cosines.
    """

    scores: Scores
    means: dict[str, float]
    monotonicity: dict[str, float]

    def to_json(self) -> dict:
        """The scores (`Scores.to_json`), `means` and `monotonicity`."""
        return {**self.scores.to_json(), "means": self.means, "monotonicity": self.monotonicity}

    def table(self) -> str:
        """A text table of WER, the means over languages, the monotonicity and the signature."""
        lines = [self.scores.wers()]
        if self.means:
            means = ", ".join(f"{system} {100 * wer:.1f}" for system, wer in self.means.items())
            lines.append(f"mean over languages: {means}")
        values = ", ".join(f"{units} {value:.3f}" for units, value in self.monotonicity.items())
        lines.append(f"monotonicity of the alignment, in cosine: {values}")
        return "\n".join([*lines, self.scores.signature])


def test_set(build: Build) -> list[Utterance]:
    """The test utterances. Raises RecipeError if the recipe names none."""
    if not build.recipe.data.test:
        raise RecipeError("recipe.yaml: data.test: missing; name a manifest to score")
    return build.manifests.spoken(build.recipe.data.test)


def test(build: Build) -> BaseScores:
    """Transcribe the test set with the speech LLM and with its encoder alone, and score both: `hyps/`, `scores/`.

    Also writes the monotonicity of the alignment, and pictures of it, to `alignment/`. Raises RecipeError without a
    test set.
    """
    from adapt.score.report import save_scores
    from adapt.score.scoring import score_systems

    recipe = build.recipe
    utterances = test_set(build)
    load_model = functools.cache(functools.partial(_load, build))
    systems = ("ctc" if recipe.encoder.first_pass == "none" else "first-pass", "llm")
    texts = {system: _transcripts(build, system, utterances, load_model) for system in systems}
    _alignment_stage(build, utterances, load_model)
    sets = _groups(utterances)
    hyps = {name: {s: {u.id: texts[s][u.id] for u in members} for s in systems} for name, members in sets.items()}
    resamples = recipe.score.resamples
    scores = score_systems(sets, hyps, None, recipe.data.normaliser, resamples=resamples, seed=recipe.seed)
    if build.folder.ranks.is_first:
        save_scores(build.folder.path, scores, {"test": utterances}, recipe_yaml=dump(recipe))
    by_language = [row for row in scores.rows if row.set.startswith("language ")]
    wers = {system: [row.wer for row in by_language if row.system == system] for system in systems}
    means = {system: sum(wer) / len(wer) for system, wer in wers.items() if wer}
    return BaseScores(scores, means, read_json(build.path(MONOTONICITY)))


def _load(build: Build):
    """The speech LLM that the stage `align` wrote, which hears the test set once for both systems."""
    from adapt.model.bases import fingerprint
    from adapt.model.heard_folder import HeardFolder
    from adapt.model.load import load_speech_llm

    speech_llm = load_speech_llm(str(build.path("model")), build.device)
    speech_llm.heard = HeardFolder(build.path("heard"), [fingerprint(str(build.path("model"))), str(speech_llm.device)])
    return speech_llm


def _inputs(build: Build, utterances: Sequence[Utterance]) -> list[Path]:
    """The files that the transcripts and the alignment depend on."""
    return [build.path("model"), build.recipe.data.test, *(u.audio.path for u in utterances)]


def _transcripts(build: Build, system: str, utterances: Sequence[Utterance], load_model: Callable) -> dict[str, str]:
    """The hypotheses of a system by utterance id; a stage of its own."""
    out = hypotheses_path(Path(), "test", system)
    settings = dataclasses.asdict(build.recipe.transcribe)

    def write(unfinished: Path) -> None:
        from adapt.decode.transcribe import transcribe

        transcribe(load_model(), utterances, unfinished, decoder=system, label=system, **settings)

    inputs = _inputs(build, utterances)
    result = transcription(build.folder, f"test-{system}", {"transcribe": settings}, inputs, out, write)
    build.report(result, f"{len(utterances)} utterances, {system}")
    return read_hypotheses(build.path(str(out)))


def _alignment_stage(build: Build, utterances: Sequence[Utterance], load_model: Callable) -> None:
    """The monotonicity over all utterances, and pictures of some: `alignment/`; a stage of its own."""
    settings = {"normaliser": build.recipe.data.normaliser, "seed": build.recipe.seed}
    inputs = _inputs(build, utterances)
    result = build.folder.stage(
        "alignment", settings, inputs, ["alignment"], lambda scratch: _align(build, load_model(), utterances)
    )
    build.report(result, f"{PICTURES} pictures")


def _align(build: Build, speech_llm, utterances: Sequence[Utterance]) -> None:
    """The work of that stage."""
    import numpy as np

    from adapt.model.cosine_alignment import cosines, monotonicity, picture
    from adapt.model.features import read_audio
    from adapt.train.pseudo_audio import symbol_ids

    normalise, rng = NORMALISERS[build.recipe.data.normaliser], np.random.default_rng(build.recipe.seed)
    try:
        letters = symbol_ids(speech_llm)
    except ModelError:  # its tokenizer has no single-letter tokens
        letters = {}
    values_of: dict[str, list[float]] = {}
    for number, utterance in enumerate(utterances):
        text = normalise(utterance.text)
        (embeddings,) = speech_llm.audio_embeddings([read_audio(utterance.audio)])
        tokens = speech_llm.target_ids(text)[:-1]
        units = {"tokens": (tokens, speech_llm.tokenizer.convert_ids_to_tokens(tokens))}
        if spelled := [c for c in text if c in letters]:
            units["letters"] = ([letters[c] for c in spelled], spelled)
        panels = {name: (cosines(speech_llm, embeddings, ids), labels) for name, (ids, labels) in units.items() if ids}
        for name, (matrix, _) in panels.items():
            if (value := monotonicity(matrix, rng)) is not None:
                values_of.setdefault(name, []).append(value)
        if panels and number % max(1, len(utterances) // PICTURES) == 0:
            picture(panels, text, build.path("alignment", f"{number:04d}.png"))
    means = {name: round(sum(values) / len(values), 4) for name, values in values_of.items()}
    write_json(build.path(MONOTONICITY), means)


def _groups(utterances: Sequence[Utterance]) -> dict[str, Sequence[Utterance]]:
    """All utterances, and those of each language and each voice if there are several.

    >>> rows = [Utterance(str(i), "so", voice="ab"[i % 2], language="en") for i in range(4)]
    >>> {name: len(members) for name, members in _groups(rows).items()}
    {'test': 4, 'voice a': 2, 'voice b': 2}
    """
    groups = {"test": utterances}
    for key in ("language", "voice"):
        names = sorted({name for u in utterances if (name := getattr(u, key))})
        if len(names) > 1:
            groups |= {f"{key} {name}": [u for u in utterances if getattr(u, key) == name] for name in names}
    return groups
