"""Shallow fusion in transformers' searches gives what a search written out gives."""

from __future__ import annotations

import pytest
import torch

from adapt.decode.beam_search import generate
from adapt.decode.ngram_fusion import NgramFusion
from adapt.lm.ngram import load_ngrams

from .reference import reference


@pytest.mark.parametrize("num_beams", [1, 4])
def test_fused_beams_equal_a_search_written_out(tiny, noise, models, num_beams):
    _, lm, phrases = models
    slots = tiny.audio_embeddings(noise)
    tiny.model.double()
    prompts = [tiny.prompt(slot.double()) for slot in slots]

    def scores_after(automaton, tokens: list[int]) -> torch.Tensor:
        state = automaton.start(1)
        for token in tokens:
            state = automaton.advance(state)[1][:, token]
        return automaton.advance(state)[0][0].double()

    def score(tokens: list[int]) -> torch.Tensor:
        return 0.5 * scores_after(lm, tokens) + 4.0 * scores_after(phrases, tokens)

    plain = [h[0] for h in generate(tiny, prompts, num_beams, 8)]
    processors = [NgramFusion(lm, 0.5, (phrases, 4.0))]
    ours = [h[0] for h in generate(tiny, prompts, num_beams, 8, processors)]
    again = [h[0] for h in generate(tiny, prompts, num_beams, 8, processors)]
    assert ours == again, "a processor can be used again"
    assert ours != plain, "the example is one that fusion changes"
    assert ours == [reference(tiny.model, p, num_beams, 8, score) for p in prompts]


def test_states_follow_reordered_rows_and_prompts(models):
    _, lm, phrases = models
    rng = torch.Generator().manual_seed(0)
    scores = torch.zeros(6, len(lm.root))
    fusion, fresh = NgramFusion(lm, 0.5, (phrases, 1.0)), NgramFusion(lm, 0.5, (phrases, 1.0), prompt_length=2)
    ids = torch.empty(6, 0, dtype=torch.long)
    for _ in range(7):
        ids = ids[torch.randint(6, (6,), generator=rng)]
        ids = torch.cat([ids, torch.randint(4, len(lm.root), (6, 1), generator=rng)], 1)
        prompted = torch.cat([torch.full((6, 2), 9), ids], 1)
        fresh._tracker.ids = None  # as if it came in the middle
        torch.testing.assert_close(fusion(ids, scores.clone()), fresh(prompted, scores.clone()))


def test_outputs_beyond_the_tokens_are_left_alone_and_words_are_rewarded(models):
    path, lm = models.arpa, models.lm
    ids, wider = torch.empty(2, 0, dtype=torch.long), torch.zeros(2, len(lm.root) + 5)
    lm = load_ngrams(path, len(lm.root), ends=[2], special=[0, 1, 3])
    fused = NgramFusion(lm, 0.5, reward=0.25)(ids, wider.clone())
    narrow = NgramFusion(lm, 0.5)(ids, wider[:, :-5].clone())
    assert torch.equal(fused[:, -5:], wider[:, -5:]), "outputs beyond the tokens"
    reward = (fused[:, :-5] - narrow)[0]
    assert reward[[0, 1, 2, 3]].tolist() == pytest.approx([0] * 4), "special tokens and the end have no reward"
    assert reward[6:].tolist() == pytest.approx([0.25] * len(reward[6:])), "each other token has it"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_scores_on_a_gpu_are_those_on_a_cpu(models):
    _, lm, phrases = models
    ids, scores = torch.randint(4, len(lm.root), (8, 5)), torch.randn(8, len(lm.root))
    ours = NgramFusion(lm, 0.5, (phrases, 1.0))(ids.cuda(), scores.cuda())
    torch.testing.assert_close(ours.cpu(), NgramFusion(lm, 0.5, (phrases, 1.0))(ids, scores), atol=1e-5, rtol=0)
