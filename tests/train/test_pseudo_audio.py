from __future__ import annotations

import random

import torch

from adapt.model.features import log_mel, pad
from adapt.text.channel import Channel
from adapt.train.base import ctc_greedy
from adapt.train.pseudo_audio import Source, simulate, symbol_ids


def test_paths_collapse_to_the_greedy_transcript(tiny, noise):
    alphabet = tiny.model.config.alphabet
    features, mask = log_mel(*pad(noise))
    with torch.no_grad():
        frames, lengths = tiny.model.encode(features, mask)
        transcripts = ctc_greedy(tiny.model.encoder.ctc_head(frames), lengths, alphabet)
    paths = tiny.ctc_paths(noise)
    assert [len(path) for path in paths] == lengths.tolist()
    assert any(set(path) - {"_"} for path in paths)
    for path, transcript in zip(paths, transcripts, strict=True):
        merged = [c for i, c in enumerate(path) if i == 0 or path[i - 1] != c]
        assert " ".join("".join(merged).replace("_", "").split()) == transcript


def test_a_simulated_slot_is_what_the_channel_plays(tiny):
    ids = symbol_ids(tiny)
    channel = Channel({"p": ["b_"], "l": ["ll"], "a": [""], "y": ["y"]})
    slot = simulate(Source(tiny, noise=0.0, channel=channel), "play!", random.Random(1))
    assert torch.equal(slot, tiny.embed([ids[c] for c in "b_lly"]))
    plain = simulate(Source(tiny, noise=0.0), "play!", random.Random(1))
    assert not torch.equal(plain, slot) and not plain.requires_grad
