"""Greedy CTC hypotheses."""

from __future__ import annotations

from itertools import groupby

from adapt.decode.ctc import greedy_transcripts


def test_a_greedy_transcript_is_the_collapsed_path_in_a_batch_and_alone(tiny, noise):
    paths, _ = tiny.ctc_paths(noise)
    together = greedy_transcripts(tiny, noise)
    alone = [greedy_transcripts(tiny, [samples])[0] for samples in noise]
    assert any(row.text for row in together)
    for path, row, same in zip(paths, together, alone, strict=True):
        merged = [symbol for symbol, _ in groupby(path) if symbol != "_"]
        assert row.text == same.text == " ".join("".join(merged).split())
