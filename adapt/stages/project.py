"""Stage `project`: from paired audio, learn the prompt around the slot and train the parts of the base."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.errors import DataError, ModelError, RecipeError
from adapt.model.bases import fingerprint
from adapt.run import write_json
from adapt.stages import plan
from adapt.stages.context import Run
from adapt.stages.log import checkpoint_note
from adapt.text.manifest import Utterance
from adapt.text.template import parse

if TYPE_CHECKING:
    from adapt.model.speech_llm import SpeechLLM
    from adapt.train.common import PairedAudio

DEV_SHARE = 10  # one in this many paired utterances is held out for development
INIT_EXAMPLES = 50  # recordings whose audio embeddings a learned prompt may start from
LOG = "project/log.json"


def paired_audio(run: Run, speech_llm: SpeechLLM, samples: bool = False) -> tuple[PairedAudio, PairedAudio]:
    """The paired audio of the recipe, for training and for development.

    samples: True: with recordings, to train encoder or projector; False: with their audio embeddings. Raises
    RecipeError without `data.paired`, and DataError for too few utterances.
    """
    from adapt.model.features import read_audio
    from adapt.train.common import PairedAudio
    from adapt.train.ctc import ctc_ids

    if not run.recipe.data.paired:
        raise RecipeError("recipe.yaml: data.paired: missing; name a manifest of paired audio to learn from")
    utterances = run.transcribed("paired")
    if len(utterances) < DEV_SHARE:
        raise DataError(f"{run.recipe.data.paired}: only {len(utterances)} utterances; give at least {DEV_SHARE}")

    def pairs(utterances: list[Utterance]) -> PairedAudio:
        targets = [speech_llm.target_ids(u.text) for u in utterances]
        if not samples:
            return PairedAudio(targets, embeddings=run.audio_embeddings(utterances, speech_llm))
        letters = ()
        if speech_llm.has_ctc:
            letters = [ctc_ids(u.text, speech_llm.model.config.alphabet) for u in utterances]
        return PairedAudio(targets, samples=[read_audio(u.audio) for u in utterances], letters=letters)

    dev = utterances[::DEV_SHARE]
    return pairs([u for i, u in enumerate(utterances) if i % DEV_SHARE]), pairs(dev)


def project(run: Run) -> None:
    """Write `project/prompt.safetensors` or, if parts of the base are trained, `project/model`."""
    recipe = run.recipe
    parse(plan.prompt_template(recipe))  # raises for a bad template before the encoder processes all audio
    outputs = [plan.projected(recipe), LOG]
    inputs = run.manifests.files(recipe.data.paired)
    run.stage(
        "project",
        _record(run),
        inputs,
        outputs,
        lambda scratch: _learn(run, scratch),
        lambda: checkpoint_note(run, LOG),
    )


def _learn(run: Run, scratch: Path) -> None:
    """The work of the stage. Raises RecipeError if the base has no such part, or one that cannot be trained."""
    import torch

    from adapt.model.learned_prompt import LearnedPrompt, ids_around
    from adapt.train.project import AUDIO_PARTS, learn_from_pairs, trainable_audio_weights

    recipe, settings, parts = run.recipe, run.recipe.project, plan.trained_parts(run.recipe)
    template = plan.prompt_template(recipe)
    speech_llm = run.fresh_speech_llm(recipe.base, exact=True) if parts else run.speech_llm()
    try:
        trainable_audio_weights(speech_llm, parts)
    except ModelError as error:
        raise RecipeError(f"recipe.yaml: project: {error}") from error
    ids_around(parse(template), speech_llm)
    train, dev = paired_audio(run, speech_llm, samples=any(part in AUDIO_PARTS for part in parts))
    torch.manual_seed(recipe.seed)
    learned = None
    if settings.method != "none":
        examples = train.embeddings[:INIT_EXAMPLES] or speech_llm.audio_embeddings(train.samples[:INIT_EXAMPLES])
        learned = LearnedPrompt(
            speech_llm, template, settings.method, init=settings.init, size=settings.size, examples=examples
        )
    unfinished = scratch / "made"  # renamed when it is complete
    unfinished.unlink() if unfinished.is_file() else shutil.rmtree(unfinished, ignore_errors=True)
    result = learn_from_pairs(
        speech_llm,
        learned,
        train,
        dev,
        settings,
        folder=scratch,
        out=unfinished,
        seed=recipe.seed,
        precision=recipe.precision,
        parts=parts,
        rank=recipe.decoder.rank,
        alpha=recipe.decoder.alpha,
    )
    shutil.rmtree(run.path("project"), ignore_errors=True)
    run.path("project").mkdir()
    unfinished.replace(run.path(plan.projected(recipe)))
    fingerprint.cache_clear()
    write_json(run.path(LOG), dataclasses.asdict(result) | {"base": recipe.base, "parts": parts})


def _record(run: Run) -> dict:
    """The settings that the stage depends on; those without an effect are left out."""
    recipe, parts = run.recipe, plan.trained_parts(run.recipe)
    settings = dataclasses.asdict(recipe.project) | {"template": plan.prompt_template(recipe)}
    unused = () if recipe.project.method != "none" else ("template", "init", "size", "learning_rate")
    unused += () if parts else ("encoder", "projector", "llm", "weights_rate")
    record = {
        "project": {key: value for key, value in settings.items() if key not in unused},
        "base": plan.base_record(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
        **plan.transcripts_record(recipe),
    }
    if "llm" in parts:
        record["lora"] = {"rank": recipe.decoder.rank, "alpha": recipe.decoder.alpha}
    return record
