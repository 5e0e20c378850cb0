"""Greedy CTC hypotheses."""

from __future__ import annotations

from itertools import groupby

import pytest

from adapt.decode.ctc import CtcFusion, greedy_transcripts
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.lm.build import build_words


def test_a_greedy_transcript_is_the_collapsed_path_in_a_batch_and_alone(tiny, noise):
    paths, _ = tiny.ctc_paths(noise)
    together = greedy_transcripts(tiny, noise)
    alone = [greedy_transcripts(tiny, [samples])[0] for samples in noise]
    assert any(row.text for row in together)
    for path, row, same in zip(paths, together, alone, strict=True):
        merged = [symbol for symbol, _ in groupby(path) if symbol != "_"]
        assert row.text == same.text == " ".join("".join(merged).split())


@pytest.mark.parametrize("text", ["PLAY ABBA", "播放 歌", "play 50 60 70"])
def test_an_lm_whose_words_the_encoder_cannot_spell_is_refused(tiny, text, tmp_path):
    build_words([text] * 4, 2, (0,), tmp_path / "words.arpa")
    with pytest.raises(DataError, match=r"words.arpa: \d+% of its words have other letters than the encoder's"):
        CtcFusion(tiny, Weights(lm=0.5), lm=tmp_path / "words.arpa", normalise=str)
