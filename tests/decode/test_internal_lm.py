"""Internal LM subtraction in transformers' beam search gives what a search written out gives."""

from __future__ import annotations

import pytest
import torch

from adapt.decode.beam_search import generate
from adapt.decode.internal_lm import InternalLM

from .reference import reference


@pytest.mark.parametrize("slot_alone", [False, True])
def test_the_subtracted_internal_lm_is_the_decoder_with_an_empty_slot(tiny, noise, models, slot_alone):
    slots = tiny.audio_embeddings(noise)
    tiny.model.double()
    prompts = [tiny.prompt(slot.double()) for slot in slots]
    empty = tiny.prompt(torch.empty(0, 32, dtype=torch.double)).double()
    if slot_alone:
        empty = empty[:0]
    embed = tiny.model.get_input_embeddings()

    def subtracted(tokens: list[int]) -> torch.Tensor | float:
        embeds = torch.cat([empty, embed(torch.tensor(tokens, dtype=torch.long))])[None]
        if not embeds.shape[1]:
            return 0.0
        scores = -0.7 * tiny.model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        scores[[0, 1, 3]] = 0
        return scores

    ours = generate(tiny, prompts, 4, 8, [InternalLM(tiny.model, empty, 0.7, special=[0, 1, 3])])
    assert [h[0] for h in ours] == [reference(tiny.model, p, 4, 8, subtracted) for p in prompts]
