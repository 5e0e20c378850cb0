from __future__ import annotations

import random

import torch

from adapt.model.features import pad
from adapt.train.pseudo_audio import Source, simulate, symbol_ids
from adapt.train.unit_selection import Recording, UnitInventory


def test_a_path_has_a_symbol_for_each_frame_and_the_slots_of_real_audio(tiny, noise):
    with torch.no_grad():
        logits, lengths = tiny.model.encoder(*tiny.model.encoder.inputs(*pad(noise)))
    paths, slots = tiny.ctc_paths(noise)
    assert all(map(torch.equal, slots, tiny.audio_embeddings(noise)))
    assert [len(path) for path in paths] == lengths.tolist()
    symbols = tiny.model.config.alphabet + "_"
    assert paths[1] == "".join(symbols[i] for i in logits[1, : lengths[1]].argmax(-1))
    assert any(set(path) - {"_"} for path in paths)


def test_a_simulated_slot_is_what_the_channel_plays(tiny, noise):
    vectors = torch.cat(tiny.audio_embeddings(noise))
    spoken = [Recording("\nplay\n", [(0, 2), (1, 2), (3, 3), (2, 4)])]
    inventory = UnitInventory({letter: [(0, place)] for place, letter in enumerate("play")}, spoken, vectors)
    slot = simulate(Source(tiny, noise=0.0, inventory=inventory), "play!", random.Random(1))
    assert torch.equal(slot, vectors[[0, 1, 1, 2, 3]])
    ids = symbol_ids(tiny)
    plain = simulate(Source(tiny, noise=0.0), "a", random.Random(1))
    assert torch.equal(plain[0], tiny.embed([ids["a"]])[0]) and not plain.requires_grad
