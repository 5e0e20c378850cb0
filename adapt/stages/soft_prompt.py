"""Stage `prompt`, stage 1 of the method: learn the soft prompt on the domain text, with everything else frozen."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.errors import ModelError, RecipeError
from adapt.run import write_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.log import checkpoint_note
from adapt.stages.text import FILES, training_text

LOG = "prompt/log.json"


def soft_prompt(run: Run) -> None:
    """Write `prompt/soft_prompt.safetensors`: learned, or a copy of the file that `prompt.start` names."""
    recipe = run.recipe
    settings = {
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
        lambda: checkpoint_note(run, LOG),
        shared=work is _learn,
    )


def _copy(run: Run, scratch: Path) -> None:
    """Copy the soft prompt of `prompt.start`, after a check that it fits the base."""
    from adapt.model.soft_prompt import load_soft_prompt, save_soft_prompt

    vectors = load_soft_prompt(run.recipe.prompt.start, run.speech_llm())
    save_soft_prompt(run.path(plan.SOFT_PROMPT), vectors)
    write_json(run.path(LOG), {"log": [], "best_step": 0})


def _learn(run: Run, scratch: Path) -> None:
    """Train the soft prompt. Raises RecipeError for an initial value from audio embeddings if there are none."""
    from adapt.model.soft_prompt import slot_examples
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
    result = learn_soft_prompt(
        speech_llm,
        training_text(run),
        run.lines(plan.DEV),
        recipe.prompt,
        examples=examples,
        folder=scratch,
        out=run.path(plan.SOFT_PROMPT),
        seed=recipe.seed,
        precision=recipe.precision,
    )
    if run.folder.ranks.is_first:
        write_json(run.path(LOG), dataclasses.asdict(result))
