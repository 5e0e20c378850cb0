"""Stage `score`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from adapt.recipe.load import dump
from adapt.run import read_json
from adapt.score.files import hypotheses_path
from adapt.stages.context import Run
from adapt.stages.plan import learns_soft_prompt, reading_settings, scored
from adapt.stages.systems import systems
from adapt.stages.text import lines_of
from adapt.text.corpus import Utterance, read_hypotheses, read_manifest
from adapt.text.lexicon import Entry, Lexicon, entities_in, phrase_index, read_lexicon
from adapt.text.normalise import NORMALISERS


def score(run: Run) -> str:
    """WER and EER of every set and system: `scores/metrics.json`, `report.html`; the table comes back."""
    from adapt.score.report import save_scores
    from adapt.score.scoring import score_systems

    recipe = run.recipe
    manifests = scored(recipe)
    sets = {name: read_manifest(path, need_audio=False) for name, path in manifests.items()}
    hyps = {
        name: {label: read_hypotheses(hypotheses_path(run.folder.path, name, label)) for label in systems(run)}
        for name in manifests
    }
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    train, normalise = lines_of(run.path("text/train.txt")), NORMALISERS[recipe.data.normaliser]
    scores = score_systems(
        sets,
        hyps,
        lexicon,
        normaliser=recipe.data.normaliser,
        seen=seen_entities(sets.values(), lexicon, train, normalise),
        resamples=recipe.score.resamples,
        seed=recipe.seed,
    )

    def work(scratch: Path) -> None:
        stages = ("prompt", "decoder") if learns_soft_prompt(recipe) else ("decoder",)
        curves = {name: read_json(run.path(name, "log.json"))["log"] for name in stages}
        save_scores(run.folder.path, scores, sets, curves, dump(recipe))

    settings = {**reading_settings(recipe), "score": dataclasses.asdict(recipe.score), "seed": recipe.seed}
    inputs = [hypotheses_path(run.folder.path, name, system) for name in hyps for system in hyps[name]]
    inputs += [*manifests.values(), run.path("text/train.txt")]
    inputs += [recipe.data.lexicon] if recipe.data.lexicon else []
    outputs = [f"scores/{name}" for name in ("metrics.json", "errors.tsv", "table.md")]
    result = run.folder.stage("score", settings, inputs, [*outputs, "report.html"], work)
    run.report(result, f"{len(scores.rows)} rows")
    return scores.table()


def seen_entities(sets: Iterable[list[Utterance]], lexicon, train: list[str], normalise: Callable) -> frozenset[str]:
    """Entities, of the lexicon and of the annotated references, that the domain text holds; normalised."""
    named = [Entry(e.text, e.type) for utterances in sets for u in utterances for e in u.entities or ()]
    both = Lexicon("", "", (*(lexicon.entries if lexicon else ()), *named))
    return entities_in(train, phrase_index(both, normalise), normalise)
