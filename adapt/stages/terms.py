"""Stage `terms`: find names in the domain text, for prompts and boosting, where the recipe has no lexicon."""

from __future__ import annotations

from pathlib import Path

from adapt.errors import DataError
from adapt.run import write_text
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.text.lexicon import as_line
from adapt.text.sentences import sample
from adapt.text.terms import LEAST_SCORE, SENTENCES, find_terms


def terms(run: Run) -> None:
    """Write the terms of the training lines to `text/terms.txt`, a lexicon. Raises DataError if there are none."""

    def work(scratch: Path) -> None:
        lines, _ = sample(run.lines(plan.TRAIN), SENTENCES, run.recipe.seed)
        if not (found := find_terms(lines)):
            problem = "no names are found in the text: no phrase recurs beside different words, where others recur, too"
            raise DataError(f"data.lexicon: missing, and {problem}; name a lexicon, or set transcribe.names to none")
        write_text(run.path(plan.TERMS), "".join(f"{as_line(term)}\n" for term in found))

    def note() -> str:
        return f"{len(run.lines(plan.TERMS)):,} terms of the text, for want of a lexicon"

    run.stage("terms", {"least": LEAST_SCORE, "seed": run.recipe.seed}, run.paths(plan.TRAIN), [plan.TERMS], work, note)
