"""Stage `score`: WER and EER of every system on every set, and the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from adapt.recipe.load import dump
from adapt.score.files import hypotheses_path
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.log import curves
from adapt.stages.systems import systems
from adapt.text.lexicon import Entry, Lexicon, read_lexicon
from adapt.text.manifest import Utterance
from adapt.text.mentions import entities_in, phrase_index
from adapt.text.normalise import NORMALISERS
from adapt.text.retrieval import NameIndex
from adapt.text.transcripts import read_hypotheses

LISTED = (10, 20, 50)  # lengths of the lists of names in a note
OUTPUTS = (*(f"scores/{name}" for name in ("metrics.json", "errors.tsv", "table.md")), "report.html")


def score(run: Run, names: Collection[str] | None = None) -> str:
    """Write `scores/` and `report.html`, and return the table of scores, of these systems; None: of all."""
    from adapt.score.report import save_scores
    from adapt.score.scoring import score_systems

    recipe, manifests = run.recipe, plan.scored_sets(run.recipe)
    sets = {name: run.manifests.utterances(path) for name, path in manifests.items()}
    labels = [label for label in systems(run) if names is None or label in names]
    files = {name: {label: hypotheses_path(run.folder.path, name, label) for label in labels} for name in sets}
    lexicon = read_lexicon(recipe.data.lexicon) if recipe.data.lexicon else None
    train, normalise = run.lines(plan.TRAIN), NORMALISERS[recipe.data.normaliser]
    scores = score_systems(
        sets,
        {name: {label: read_hypotheses(path) for label, path in of_set.items()} for name, of_set in files.items()},
        lexicon,
        normaliser=recipe.data.normaliser,
        seen=seen_entities(sets.values(), lexicon, train, normalise),
        resamples=recipe.score.resamples,
        seed=recipe.seed,
    )

    if lexicon and run.recipe.transcribe.names in plan.PROMPTS:
        notes = retrieval_notes(sets, files, lexicon, normalise)
        scores = dataclasses.replace(scores, notes=(*scores.notes, *notes))

    def work(scratch: Path) -> None:
        stages = ("prompt", "decoder") if plan.learns_soft_prompt(recipe) else ("decoder",)
        save_scores(run.folder.path, scores, sets, curves(run, stages), dump(recipe))

    settings = {
        **plan.normaliser_record(recipe),
        "score": dataclasses.asdict(recipe.score),
        **({"names": recipe.transcribe.names} if recipe.transcribe.names in plan.PROMPTS else {}),
        "seed": recipe.seed,
    }
    inputs = [path for of_set in files.values() for path in of_set.values()]
    inputs += [*manifests.values(), *run.paths(plan.TRAIN)]
    inputs += [recipe.data.lexicon] if recipe.data.lexicon else []
    run.stage("score", settings, inputs, OUTPUTS, work, lambda: f"{len(scores.rows)} rows")
    return scores.table()


def seen_entities(
    sets: Iterable[list[Utterance]], lexicon: Lexicon | None, train: list[str], normalise: Callable[[str], str]
) -> frozenset[str]:
    """Entities of the lexicon and of the annotated references that occur in the domain text; normalised."""
    annotated = [Entry(e.text, e.type) for utterances in sets for u in utterances for e in u.entities or ()]
    entries = (*(lexicon.entries if lexicon else ()), *annotated)
    return entities_in(train, phrase_index(Lexicon("", "", entries), normalise), normalise)


def retrieval_notes(
    sets: Mapping[str, Sequence[Utterance]],
    files: Mapping[str, Mapping[str, Path]],
    lexicon: Lexicon,
    normalise: Callable[[str], str],
) -> list[str]:
    """A sentence for each set with annotated names: how many of them are among those that sound like a transcript.

    files: transcripts by set and system. The transcript is the first hypothesis: that of the encoder, if there is one.
    """
    index, notes = NameIndex(lexicon.entries, normalise), []
    forms = {normalise(form): entry for entry in lexicon.entries for form in (entry.written, *entry.spoken)}
    for name, utterances in sets.items():
        system = next(of for of in ("first pass", "ctc", "base") if of in files[name])
        transcripts, ranks = read_hypotheses(files[name][system]), []
        for utterance in utterances:
            said = [forms.get(normalise(entity.text)) for entity in utterance.entities or ()]
            if any(said):
                found = [one.entry for one in index.find(transcripts[utterance.id], LISTED[-1])]
                ranks += [found.index(e) if e in found else LISTED[-1] for e in said if e]
        if ranks:
            shares = [f"{100 * sum(rank < n for rank in ranks) / len(ranks):.1f} % among {n}" for n in LISTED]
            heard = f"that sound most like the transcript of `{system}`"
            notes.append(f"{name}: of {len(ranks)} names of the lexicon, {', '.join(shares)} {heard}")
    return notes
