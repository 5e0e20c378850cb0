from __future__ import annotations

import random

import torch

from adapt.model.features import log_mel, pad
from adapt.train.base import ctc_greedy
from adapt.train.channel import Channel, Recording
from adapt.train.pseudo_audio import Source, simulate, symbol_ids


def test_paths_collapse_to_the_greedy_transcript(tiny, noise):
    alphabet = tiny.model.config.alphabet
    features, mask = log_mel(*pad(noise))
    with torch.no_grad():
        frames, lengths = tiny.model.encode(features, mask)
        transcripts = ctc_greedy(tiny.model.encoder.ctc_head(frames), lengths, alphabet)
    paths, slots = tiny.heard(noise)
    assert all(map(torch.equal, slots, tiny.slot_vectors(noise)))
    assert [len(path) for path in paths] == lengths.tolist()
    assert any(set(path) - {"_"} for path in paths)
    for path, transcript in zip(paths, transcripts, strict=True):
        merged = [c for i, c in enumerate(path) if i == 0 or path[i - 1] != c]
        assert " ".join("".join(merged).replace("_", "").split()) == transcript


def test_a_simulated_slot_is_what_the_channel_plays(tiny, noise):
    vectors = torch.cat(tiny.slot_vectors(noise))
    spoken = [Recording("\nplay\n", [(0, 2), (1, 2), (3, 3), (2, 4)])]
    channel = Channel({letter: [(0, place)] for place, letter in enumerate("play")}, spoken, vectors)
    slot = simulate(Source(tiny, noise=0.0, channel=channel), "play!", random.Random(1))
    assert torch.equal(slot, vectors[[0, 1, 1, 2, 3]])
    ids = symbol_ids(tiny)
    plain = simulate(Source(tiny, noise=0.0), "a", random.Random(1))
    assert torch.equal(plain[0], tiny.embed([ids["a"]])[0]) and not plain.requires_grad
