"""Stage `decoder`, stage 2 of the method: LoRA on the decoder, with pseudo audio in the slot."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from adapt.run import write_json
from adapt.stages import plan
from adapt.stages.context import BATCH, Run
from adapt.stages.log import checkpoint_note
from adapt.stages.speech import FOLDER, spoken
from adapt.stages.text import FILES, training_text
from adapt.text.lexicon import read_lexicon
from adapt.text.normalise import NORMALISERS

if TYPE_CHECKING:
    from adapt.decode.names import DrawnLists
    from adapt.model.speech_llm import SpeechLLM
    from adapt.train.unit_selection import UnitInventory

LOG = "decoder/log.json"
PERTURBED = 2  # perturbed copies of the replayed audio that the inventory of units holds besides the audio itself


def decoder(run: Run) -> None:
    """Write `adapter/`: the LoRA, in the format of PEFT."""
    recipe = run.recipe
    settings = dataclasses.replace(recipe.decoder, pseudo_audio=plan.pseudo_audio(recipe))
    soft_prompt = plan.SOFT_PROMPT if settings.pseudo_audio in plan.NEEDS_SOFT_PROMPT else None
    generator = plan.GENERATOR if settings.pseudo_audio == "generate" else None

    def work(scratch: Path) -> None:
        from adapt.model.slot_generator import load_slot_generator
        from adapt.model.soft_prompt import load_soft_prompt
        from adapt.train.decoder import tune_decoder

        replayed, guard = run.source_audio("source_replay"), run.source_audio("source_dev")
        speech_llm = run.prompted(run.fresh_speech_llm(run.start))
        vectors = load_soft_prompt(run.path(soft_prompt), speech_llm) if soft_prompt else None
        train, dev, embeddings = training_text(run), run.lines(plan.DEV), {}
        if settings.pseudo_audio == "speech":
            train, dev, embeddings = spoken(run)
        if run.folder.ranks.is_first:
            shutil.rmtree(run.path(plan.ADAPTER), ignore_errors=True)
        result = tune_decoder(
            speech_llm,
            train,
            dev,
            settings,
            soft_prompt=vectors,
            inventory=_inventory(run) if settings.pseudo_audio in plan.SIMULATES else None,
            spoken=embeddings,
            generator=load_slot_generator(run.path(generator), speech_llm.device) if generator else None,
            lists=_lists(run, speech_llm) if plan.lists_names(recipe) else None,
            replayed=replayed,
            guard=guard,
            folder=scratch,
            out=run.path(plan.ADAPTER),
            name=recipe.name,
            seed=recipe.seed,
            precision=recipe.precision,
        )
        if run.folder.ranks.is_first:
            write_json(run.path(LOG), dataclasses.asdict(result))

    record = {
        **plan.transcripts_record(recipe),
        "decoder": dataclasses.asdict(settings),
        "base": plan.base_record(recipe),
        "seed": recipe.seed,
        "precision": recipe.precision,
        **({"names_in_prompt": recipe.transcribe.names_in_prompt} if plan.lists_names(recipe) else {}),
    }
    speech = FOLDER if settings.pseudo_audio == "speech" else None
    inputs = run.paths(*FILES, soft_prompt, generator, speech, plan.projected(recipe))
    inputs += run.manifests.files(recipe.data.source_replay, recipe.data.source_dev)
    inputs += [recipe.data.lexicon] if plan.lists_names(recipe) else []
    run.stage("decoder", record, inputs, [plan.ADAPTER, LOG], work, lambda: checkpoint_note(run, LOG), shared=True)


def _lists(run: Run, speech_llm: SpeechLLM) -> DrawnLists:
    """The names in the prompts of sentences."""
    from adapt.decode.names import NamesInPrompt, drawn_lists

    recipe, lexicon = run.recipe, read_lexicon(run.recipe.data.lexicon)
    names = NamesInPrompt(speech_llm, lexicon, recipe.transcribe.names_in_prompt, NORMALISERS[recipe.data.normaliser])
    return drawn_lists(names, recipe.decoder.names)


def _inventory(run: Run) -> UnitInventory | None:
    """The inventory of simulated slots: of what the base mishears, or of units of the replayed source audio.

    None without such audio.
    """
    from adapt.model.features import read_audio
    from adapt.train.mishearing import load_mishearings, mishearing_inventory
    from adapt.train.perturb import perturbed
    from adapt.train.unit_selection import build_inventory

    speech_llm = run.speech_llm(run.start)
    if speech_llm.transcribes:
        return mishearing_inventory(load_mishearings(Path(speech_llm.model.name_or_path)))
    if not run.recipe.data.source_replay:
        return None
    utterances, alphabet = run.transcribed("source_replay"), speech_llm.model.config.alphabet

    def units() -> Iterator[tuple]:
        for start in range(0, len(utterances), BATCH):
            batch = utterances[start : start + BATCH]
            audio = [read_audio(u.audio) for u in batch]
            texts = ["".join(c for c in u.text if c in alphabet) for u in batch]
            for copy in range(1 + PERTURBED):
                seed = copy * len(utterances) + start
                inputs = functools.partial(perturbed, seed=seed) if copy else None
                paths, embeddings = speech_llm.ctc_paths(audio, inputs)
                yield from zip(paths, texts, embeddings, strict=True)

    return build_inventory(units(), speech_llm.model.config.stack)
