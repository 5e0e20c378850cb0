"""Stage `prompt`: learn the soft prompt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from adapt.run import StageResult, write_json
from adapt.stages.context import Run
from adapt.stages.plan import SOFT_PROMPT, audio_of, base_of, projected_files
from adapt.stages.project import best_note
from adapt.stages.text import lines_of, training_text


def prompt(run: Run) -> StageResult:
    """Stage 1: the soft prompt learns the domain text, everything else frozen: `prompt/soft_prompt.safetensors`."""
    recipe = run.recipe

    def work(scratch: Path) -> None:
        from adapt.model.soft_prompt import load_soft_prompt, save_soft_prompt, slot_examples
        from adapt.train.soft_prompt import learn_soft_prompt

        if recipe.prompt.start:
            vectors = load_soft_prompt(recipe.prompt.start, run.speech_llm())
            save_soft_prompt(run.path(SOFT_PROMPT), vectors)
            write_json(run.path("prompt/log.json"), {"log": [], "best_step": 0})
            return
        replayed = run.replay("source_replay")
        llm = run.prompted(run.speech_llm(run.start))
        heard = recipe.prompt.init in ("audio", "stats")
        examples = slot_examples(llm, replayed.embeddings if replayed else ()) if heard else ()
        tuned = learn_soft_prompt(
            llm,
            training_text(run),
            lines_of(run.path("text/dev.txt")),
            recipe.prompt,
            examples=examples,
            folder=scratch,
            out=run.path(SOFT_PROMPT),
            seed=recipe.seed,
            precision=recipe.precision,
        )
        write_json(run.path("prompt/log.json"), dataclasses.asdict(tuned))

    settings = {
        "prompt": {k: v for k, v in dataclasses.asdict(recipe.prompt).items() if k != "start"},
        "base": base_of(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
    }
    inputs = [run.path("text", f"{name}.txt") for name in ("train", "copies", "dev")]
    inputs += [p for p in (recipe.data.source_replay, recipe.prompt.start) if p] + audio_of(recipe.data.source_replay)
    inputs += projected_files(run)
    outputs = [SOFT_PROMPT, "prompt/log.json"]
    result = run.folder.stage("prompt", settings, inputs, outputs, work)
    run.report(result, best_note(run.path("prompt/log.json")))
    return result
