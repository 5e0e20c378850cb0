"""Beam search with one forward pass of each prompt."""

from __future__ import annotations

import pytest
import torch

from adapt.decode import beam_search
from adapt.decode.beam_search import generate

from ..session import EndsAfter


@pytest.mark.parametrize("lone", [False, True])
def test_one_forward_pass_of_a_prompt_gives_the_tokens_of_plain_beam_search(tiny, noise, monkeypatch, lone):
    monkeypatch.setattr(beam_search, "ALLOCATED", 5)
    prompts = [tiny.embed([5])] if lone else [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    for num_beams in (1, 4):
        plain = []
        for prompt in prompts:
            mask = torch.ones(1, len(prompt), dtype=torch.long)
            settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": 2, "pad_token_id": 3}
            ids = tiny.model.generate(inputs_embeds=prompt[None], attention_mask=mask, num_beams=num_beams, **settings)
            plain.append(ids[0].tolist())
        found = [best for best, *_ in generate(tiny, prompts, num_beams, max_new_tokens=12)]
        assert found == [[*ids, 2][: [*ids, 2].index(2)] for ids in plain], f"{num_beams} beams"


@pytest.mark.parametrize("num_beams", [1, 4])
def test_finished_utterances_leave_the_batch_and_change_nothing(tiny, noise, monkeypatch, num_beams):
    monkeypatch.setattr(beam_search, "ALLOCATED", 3)
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings([*noise, *noise])]
    lengths = [3, 9, 1, 6, 12, 3]
    alone = [
        generate(tiny, [prompt], num_beams, 12, [EndsAfter(tiny.ends, [length])], num_beams)[0]
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    rows, forward = [], tiny.forward
    monkeypatch.setattr(tiny, "forward", lambda x, *more, **keys: rows.append(len(x)) or forward(x, *more, **keys))
    together = generate(tiny, prompts, num_beams, 12, [EndsAfter(tiny.ends, lengths)], num_beams)
    assert together == alone
    computed = [6 * num_beams] * 4 + [3 * num_beams] * 6 + [num_beams] * 2
    assert rows == [6, *computed], "half of them have ended after 3 tokens, and 5 after 9"
