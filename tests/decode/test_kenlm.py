"""Fusion through KenLM equals fusion with our own automaton of the same file."""

from __future__ import annotations

import pytest
import torch

from adapt.decode.beam_search import generate
from adapt.decode.kenlm import KenlmFusion, open_kenlm, words_are_token_ids
from adapt.decode.ngram_fusion import NgramFusion
from adapt.errors import DataError
from adapt.lm.build import build_words

from .conftest import LINES

pytest.importorskip("kenlm")


def test_fusion_through_kenlm_finds_the_same_hypotheses(tiny, noise, models):
    path, lm = models.arpa, models.lm
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    ours = generate(tiny, prompts, 4, 8, [NgramFusion(lm, 0.5)])
    assert ours == generate(tiny, prompts, 4, 8, [KenlmFusion(path, 0.5, ends=[2], top_k=len(lm.root))])


def test_kenlm_gives_sequences_the_same_scores(tiny, models):
    path, lm = models.arpa, models.lm
    sequences = [tiny.tokenizer.encode(line, add_special_tokens=False) for line in (LINES[2], "play it", "")]
    torch.testing.assert_close(KenlmFusion(path, 0.5).totals(sequences), lm.totals(sequences), atol=1e-4, rtol=0)


def test_a_missing_file_is_an_error():
    with pytest.raises(DataError, match="no such file"):
        KenlmFusion("none.arpa", 0.5)


def test_an_lm_of_token_ids_is_told_from_one_of_words(models):
    path = models.arpa
    words = path.with_name("words.arpa")
    assert words_are_token_ids(open_kenlm(path))
    for lines in (LINES, [*LINES, "play 5 of a 2024 album"], ["5 \u0432 2024"]):
        build_words(lines, 2, (0,), words)
        assert not words_are_token_ids(open_kenlm(words)), lines
