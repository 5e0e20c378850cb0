"""Training of a LoRA on the real base `small` beside the plain way (`training`), on requests for music.

Needs the parts of the base: ADAPT_PARTS names their folder. Sentences follow the base's own prompt, with a soft prompt
of the default length in the slot, the same for all, or with a simulated slot for each, the default of stage 2.
"""

from __future__ import annotations

import copy
import os
import random
import sys
from pathlib import Path

from timing import MUSIC
from training import BATCH, LAYERS, compared, copy_lora, ours, plain

STEPS = 4


def _sentences() -> list[list[str]]:
    """Those of each batch, of similar length as in stage 2."""
    from adapt.train.common import by_length, draw

    lines = (MUSIC / "text.txt").read_text().splitlines()
    ordered, rng = by_length(lines), random.Random(1)
    return [[lines[i] for i in draw(rng, ordered, BATCH, rng.random())] for _ in range(STEPS)]


def _ways(llm, kind: str, sentences: list[list[str]], targets: list[list[list[int]]]) -> tuple:
    """What `compared` asks for. llm: is changed. kind: of pseudo audio. targets: token ids of the sentences."""
    import peft
    import torch

    from adapt.model.adapter import add_lora
    from adapt.model.soft_prompt import initial
    from adapt.recipe.training import Decoder, Prompt
    from adapt.train.mishearing import load_mishearings, mishearing_inventory
    from adapt.train.pseudo_audio import PseudoAudioInputs, fill_slots

    torch.manual_seed(1)
    settings, rng = Decoder(), random.Random(1)
    inventory = mishearing_inventory(load_mishearings(Path(llm.model.name_or_path)))
    vectors = initial("text", Prompt().length, (), llm)
    inputs = PseudoAudioInputs(llm, settings.noise, vectors, inventory, settings.misheard)
    slots = [fill_slots(kind, inputs, batch, rng) for batch in sentences]
    rows = []
    for batch, texts in zip(slots, targets, strict=True):
        for slot, text in zip(batch, texts, strict=True):
            prompt = llm.prompt(slot)
            embeds = torch.cat([prompt, llm.embed(text)]).detach()
            rows.append({"inputs_embeds": embeds, "labels": [-100] * len(prompt) + text})
    config = peft.LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=LAYERS)
    tuned = peft.get_peft_model(copy.deepcopy(llm.model.language_model), config)
    model = add_lora(llm, settings.rank, settings.alpha, settings.dropout)
    copy_lora(tuned, model)
    return llm, ours(llm, model, model, slots.__getitem__, targets), plain(tuned, rows, STEPS)


def _row(name: str, kind: str) -> list[dict]:
    """The row of a benchmark; none without the parts of the base."""
    if not os.environ.get("ADAPT_PARTS"):
        print(f"{name}: left out; set ADAPT_PARTS to the folder of the parts of `small`", file=sys.stderr)
        return []
    from adapt.model.load import load_speech_llm

    llm, sentences = load_speech_llm("small", "cpu"), _sentences()
    targets = [[llm.target_ids(text) for text in batch] for batch in sentences]
    return [compared(name, lambda: _ways(copy.deepcopy(llm), kind, sentences, targets), targets)]


def train_small_lora() -> list[dict]:
    """Stage 2 with a soft prompt in the slot."""
    return _row("train_small_lora", "soft-prompt")


def train_small_lora_simulated() -> list[dict]:
    """Stage 2 with a simulated slot for each sentence."""
    return _row("train_small_lora_simulated", "simulate")


SMALL = (train_small_lora, train_small_lora_simulated)
