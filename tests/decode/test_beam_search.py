"""Beam search with one forward pass of each prompt."""

from __future__ import annotations

import torch

from adapt.decode import beam_search
from adapt.decode.beam_search import generate


def test_one_forward_pass_of_a_prompt_gives_the_tokens_of_plain_beam_search(tiny, noise, monkeypatch):
    monkeypatch.setattr(beam_search, "ALLOCATED", 5)
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    for num_beams in (1, 4):
        plain = []
        for prompt in prompts:
            mask = torch.ones(1, len(prompt), dtype=torch.long)
            settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3}
            ids = tiny.model.generate(inputs_embeds=prompt[None], attention_mask=mask, num_beams=num_beams, **settings)
            plain.append(ids[0].tolist())
        found = [best for best, *_ in generate(tiny, prompts, num_beams, max_new_tokens=12)]
        assert found == [[*ids, 2][: [*ids, 2].index(2)] for ids in plain], f"{num_beams} beams"
