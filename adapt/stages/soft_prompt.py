"""Stage `prompt`, stage 1 of the method: learn the soft prompt on the domain text, with everything else frozen."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from adapt.errors import ModelError, RecipeError
from adapt.recipe.choices import PROMPT_LENGTHS
from adapt.run import read_json, write_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.log import checkpoint_note
from adapt.stages.text import FILES, training_text

LOG = "prompt/log.json"


def soft_prompt(run: Run) -> None:
    """Write `prompt/soft_prompt.safetensors`: learned, or a copy of the file that `prompt.start` names."""
    recipe = run.recipe
    settings = {
        **plan.transcripts_record(recipe),
        "prompt": {key: value for key, value in dataclasses.asdict(recipe.prompt).items() if key != "start"},
        "base": plan.base_record(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
    }
    inputs = run.paths(*FILES, plan.projected(recipe)) + run.manifests.files(recipe.data.source_replay)
    inputs += [recipe.prompt.start] if recipe.prompt.start else []
    work = _copy if recipe.prompt.start else _learn
    outputs = [plan.SOFT_PROMPT, LOG]
    run.stage(
        "prompt",
        settings,
        inputs,
        outputs,
        lambda scratch: work(run, scratch),
        lambda: _note(run),
        shared=work is _learn,
    )


def _note(run: Run) -> str:
    """The checkpoint that was kept and, if the length was chosen, the development loss of each length."""
    note, losses = checkpoint_note(run, LOG), read_json(run.path(LOG)).get("dev_losses")
    if not losses:
        return note
    by_length = ", ".join(f"{loss:.3f} with {length}" for length, loss in losses.items())
    return f"{min(losses, key=losses.get)} vectors, {note}; dev {by_length}"


def _copy(run: Run, scratch: Path) -> None:
    """Copy the soft prompt of `prompt.start`, after a check that it fits the base."""
    from adapt.model.soft_prompt import load_soft_prompt, save_soft_prompt

    vectors = load_soft_prompt(run.recipe.prompt.start, run.speech_llm())
    save_soft_prompt(run.path(plan.SOFT_PROMPT), vectors)
    write_json(run.path(LOG), {"log": [], "best_step": 0})


def _learn(run: Run, scratch: Path) -> None:
    """Train the soft prompt, or one of each of PROMPT_LENGTHS, of which that with the lowest development loss is kept.

    Each length has its own folder in `scratch`, so that a killed stage continues with the length that it was at. Of
    equally good lengths the shortest is kept. Raises RecipeError for an initial value from audio embeddings if there
    are none.
    """
    from adapt.model.soft_prompt import slot_examples
    from adapt.train.common import best_row
    from adapt.train.soft_prompt import learn_soft_prompt

    recipe, source = run.recipe, run.source_audio("source_replay")
    speech_llm = run.prompted(run.speech_llm(run.start))
    examples = ()
    if recipe.prompt.init in ("audio", "stats"):
        try:
            examples = slot_examples(speech_llm, source.embeddings if source else ())
        except ModelError as error:
            problem = f"{recipe.prompt.init!r} needs audio embeddings of real audio, and {recipe.base} comes with none"
            way_out = "name data.source_replay in the recipe, or set prompt.init to text"
            raise RecipeError(f"recipe.yaml: prompt.init: {problem}; {way_out}") from error
    train, dev, chooses = training_text(run), run.lines(plan.DEV), recipe.prompt.length == "auto"
    results = {}
    for length in PROMPT_LENGTHS if chooses else (recipe.prompt.length,):
        results[length] = learn_soft_prompt(
            speech_llm,
            train,
            dev,
            dataclasses.replace(recipe.prompt, length=length),
            examples=examples,
            folder=scratch / str(length),
            out=scratch / f"{length}.safetensors",
            seed=recipe.seed,
            precision=recipe.precision,
            label=f"prompt {length}" if chooses else "prompt",
        )
    losses = {length: best_row(result.log)["dev_loss"] for length, result in results.items()}
    best = min(losses, key=losses.get)
    if run.folder.ranks.is_first:
        run.path(plan.SOFT_PROMPT).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scratch / f"{best}.safetensors", run.path(plan.SOFT_PROMPT))
        outcome = dataclasses.asdict(results[best])
        if chooses:
            outcome["dev_losses"] = losses
        write_json(run.path(LOG), outcome)
