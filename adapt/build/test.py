"""Stage `test`."""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

from adapt.build.context import Build
from adapt.errors import DataError, ModelError
from adapt.recipe.base import BaseRecipe
from adapt.run import write_json
from adapt.score.files import hypotheses_path
from adapt.score.results import Scores
from adapt.text.corpus import Utterance, read_hypotheses, read_manifest
from adapt.text.normalise import NORMALISERS

SYSTEMS = ("ctc", "llm")

PICTURES = 6


@dataclass(frozen=True)
class Tested:
    """What `test` found.

    scores: of the encoder alone (`ctc`) and the decoder (`llm`), in all, by language and by voice. means: of each
    system's WER over the languages; none where there is one. monotonicity: by what the slots are held against, pieces
    of the transcript or its letters (`adapt.model.cosine_alignment`).
    """

    scores: Scores
    means: dict[str, float]
    monotonicity: dict[str, float]

    def to_json(self) -> dict:
        return {**self.scores.to_json(), "means": self.means, "monotonicity": self.monotonicity}

    def table(self) -> str:
        lines = [self.scores.wers()]
        if self.means:
            told = ", ".join(f"{system} {100 * wer:.1f}" for system, wer in self.means.items())
            lines.append(f"mean over languages: {told}")
        told = ", ".join(f"{units} {value:.3f}" for units, value in self.monotonicity.items())
        lines.append(f"monotonicity of the alignment, in cosine: {told}")
        return "\n".join([*lines, self.scores.signature])


def test_set(recipe: BaseRecipe) -> list[Utterance]:
    if not recipe.data.test:
        raise DataError("recipe.yaml: data.test: missing; name a manifest to score")
    return read_manifest(recipe.data.test)


def test(build: Build) -> Tested:
    """The decoder's WER beside that of the encoder alone: `hyps/`, `scores/`; `alignment/` holds pictures.

    Raises `DataError` when the recipe names no test set.
    """
    from adapt.score.report import save_scores
    from adapt.score.scoring import score_systems

    recipe = build.recipe
    utterances = test_set(recipe)
    model = functools.cache(functools.partial(_load, build))
    inputs = [build.path("model"), recipe.data.test, *(u.audio for u in utterances)]
    texts = {}
    for system in SYSTEMS:
        out = hypotheses_path(Path(), "test", system)

        def work(scratch: Path, system=system, out=out) -> None:
            from adapt.decode.transcribe import transcribe

            partial = scratch / "hyps.jsonl"
            more = dataclasses.asdict(recipe.transcribe)
            transcribe(model(), utterances, partial, decoder=system, label=system, **more)
            build.path("hyps").mkdir(exist_ok=True)
            partial.replace(build.path(str(out)))

        settings = {"transcribe": dataclasses.asdict(recipe.transcribe)}
        result = build.folder.stage(f"test-{system}", settings, inputs, [str(out)], work)
        build.report(result, f"{len(utterances)} utterances, {system}")
        texts[system] = read_hypotheses(build.path(str(out)))
    settings = {"normaliser": recipe.data.normaliser, "seed": recipe.seed}
    result = build.folder.stage(
        "alignment", settings, inputs, ["alignment"], lambda scratch: _alignment(build, model(), utterances)
    )
    build.report(result, f"{PICTURES} pictures")
    sets = _groups(utterances)
    hyps = {name: {s: {u.id: texts[s][u.id] for u in members} for s in SYSTEMS} for name, members in sets.items()}
    how = {"resamples": recipe.score.resamples, "seed": recipe.seed}
    scores = score_systems(sets, hyps, None, recipe.data.normaliser, **how)
    save_scores(build.folder.path, scores, {"test": utterances})
    by_language = [row for row in scores.rows if row.set.startswith("language ")]
    wers = {system: [row.wer for row in by_language if row.system == system] for system in SYSTEMS}
    means = {system: sum(wer) / len(wer) for system, wer in wers.items() if wer}
    return Tested(scores, means, json.loads(build.path("alignment/monotonicity.json").read_text(encoding="utf-8")))


def _load(build: Build):
    from adapt.model.load import load_speech_llm

    return load_speech_llm(str(build.path("model")), build.device)


def _alignment(build: Build, speech_llm, utterances: list[Utterance]) -> None:
    """`alignment/monotonicity.json` over all utterances, and pictures of some."""
    import numpy as np

    from adapt.model.cosine_alignment import cosines, monotonicity, picture
    from adapt.model.features import read_audio
    from adapt.train.pseudo_audio import symbol_ids

    normalise, rng = NORMALISERS[build.recipe.data.normaliser], np.random.default_rng(build.recipe.seed)
    try:
        letters = symbol_ids(speech_llm)
    except ModelError:
        letters = {}
    found: dict[str, list[float]] = {}
    for number, utterance in enumerate(utterances):
        text = normalise(utterance.text)
        (slots,) = speech_llm.audio_embeddings([read_audio(utterance.audio)])
        pieces = speech_llm.target_ids(text)[:-1]
        units = {"pieces": (pieces, speech_llm.tokenizer.convert_ids_to_tokens(pieces))}
        if spelled := [c for c in text if c in letters]:
            units["letters"] = ([letters[c] for c in spelled], spelled)
        panels = {name: (cosines(speech_llm, slots, ids), labels) for name, (ids, labels) in units.items() if ids}
        for name, (matrix, _) in panels.items():
            if (value := monotonicity(matrix, rng)) is not None:
                found.setdefault(name, []).append(value)
        if panels and number % max(1, len(utterances) // PICTURES) == 0:
            picture(panels, text, build.path("alignment", f"{number:04d}.png"))
    means = {name: round(sum(values) / len(values), 4) for name, values in found.items()}
    write_json(build.path("alignment/monotonicity.json"), means)


def _groups(utterances: list[Utterance]) -> dict[str, list[Utterance]]:
    """All utterances, and those of each language and each voice where there are several.

    >>> rows = [Utterance(str(i), "so", voice="ab"[i % 2], language="en") for i in range(4)]
    >>> {name: len(members) for name, members in _groups(rows).items()}
    {'test': 4, 'voice a': 2, 'voice b': 2}
    """
    found = {"test": utterances}
    for about in ("language", "voice"):
        names = sorted({name for u in utterances if (name := getattr(u, about))})
        if len(names) > 1:
            found |= {f"{about} {name}": [u for u in utterances if getattr(u, about) == name] for name in names}
    return found
