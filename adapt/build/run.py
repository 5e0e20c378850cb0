"""The stages of `adapt base` in order."""

from __future__ import annotations

from collections.abc import Callable

from adapt.build.align import align, lists_names
from adapt.build.context import Build
from adapt.build.encoder import encoder
from adapt.build.read import read
from adapt.build.starts import check_shapes
from adapt.build.test import test, test_set
from adapt.text.template import parse

STAGES: dict[str, Callable[[Build], object]] = {"encoder": encoder, "read": read, "align": align, "test": test}


def run_until(build: Build, last: str) -> object:
    """Run the stages up to `last`, except those that are done, and return the result of that stage.

    The recipe is checked first. Raises RecipeError for a fault of it, and KeyError for an unknown stage.
    """
    check_shapes(build.recipe)
    parse(build.recipe.align.prompt)
    lists_names(build.recipe)
    if last == "test":
        test_set(build)
    if build.folder.ranks.count > 1:
        _check_share(build)
    for name, stage in STAGES.items():
        result = stage(build)
        if name == last:
            return result
    raise KeyError(last)


def _check_share(build: Build) -> None:
    """Raises TrainingError if several processes cannot share the batches of a stage."""
    from adapt.train.speech import check_share

    recipe = build.recipe
    lengths = {"encoder.batch_seconds": recipe.encoder.batch_seconds} if recipe.encoder.steps else {}
    lengths |= {"align.batch_seconds": recipe.align.batch_seconds}
    lengths |= {"align.ctc_seconds": recipe.align.ctc_seconds} if recipe.align.ctc_steps else {}
    check_share(build.speech, lengths)
