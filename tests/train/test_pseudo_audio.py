from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from adapt.model.features import pad
from adapt.model.slot_generator import SlotGenerator
from adapt.recipe.domain import Decoder
from adapt.stages.plan import NEEDS_SOFT_PROMPT, SIMULATES
from adapt.train.pseudo_audio import PSEUDO_AUDIO, PseudoAudioInputs, fill_slots, simulate, symbol_ids
from adapt.train.unit_selection import Recording, UnitInventory


def test_the_table_has_the_choices_of_the_recipe():
    (field,) = (f for f in dataclasses.fields(Decoder) if f.name == "pseudo_audio")
    assert {*PSEUDO_AUDIO, "auto"} == set(field.metadata["choices"])


@pytest.fixture
def generator(tiny) -> SlotGenerator:
    """An untrained generator."""
    real = torch.randn(9, tiny.hidden)
    return SlotGenerator("ailpty ", real.mean(0), real.std(0), real).eval()


@pytest.mark.parametrize("kind", PSEUDO_AUDIO)
def test_the_plan_knows_what_each_kind_needs(kind, tiny, generator):
    soft, units = torch.full((5, tiny.hidden), 7.0), torch.full((3, tiny.hidden), 8.0)
    recordings = [Recording("\na\n", [(0, 3)])]
    inventory = UnitInventory({"a": [(0, 0)]}, recordings, units)
    source = PseudoAudioInputs(tiny, 0.0, soft, inventory, spoken={"aa": units[:0]}, generator=generator)
    filled = fill_slots(kind, source, ["aa"] * 20, random.Random(0))
    rows = torch.cat([row for row in filled if row is not None] or [tiny.empty_slot])
    assert bool((rows == 7.0).all(1).any()) == (kind in NEEDS_SOFT_PROMPT), "a soft prompt"
    assert bool((rows == 8.0).all(1).any()) == (kind in SIMULATES), "units, which a CTC head provides"


def test_each_kind_fills_the_slot(tiny, generator):
    spoken = {"play it": torch.zeros(4, 32)}
    source = PseudoAudioInputs(tiny, 0.0, torch.ones(5, 32), spoken=spoken, generator=generator)
    filled = {kind: fill_slots(kind, source, ["play it"], random.Random(0))[0] for kind in PSEUDO_AUDIO}
    assert filled["none"] is None and len(tiny.prompt(None)) == 1, "none: no prompt but the beginning of sentence"
    assert len(filled["empty"]) == 0 and len(tiny.prompt(filled["empty"])) == 2, "empty: a prompt without slots"
    assert len(filled["soft-prompt"]) == 5
    assert torch.equal(filled["denoise"], tiny.embed(tiny.tokenizer.encode("play it", add_special_tokens=False)))
    assert torch.equal(filled["generate"], generator.generate("play it", random.Random(0)))
    assert torch.equal(filled["speech"], torch.zeros(4, 32))
    assert len(filled["simulate"]) >= len("play it")
    assert len(filled["soft-prompt+simulate"]) >= 5 + len("play it")
    assert len(filled["mixed"]) in (5, len(filled["simulate"]))


def test_tokens_are_repeated_to_the_length_of_audio_and_masked_with_all_their_copies(tiny):
    text = "play it now"
    tokens = tiny.embed(tiny.tokenizer.encode(text, add_special_tokens=False))
    assert len(tokens.unique(dim=0)) == len(tokens), "of repeated tokens, copies could not be counted"

    def slots(slots_per_token: float, noise: float) -> list[torch.Tensor]:
        inputs = PseudoAudioInputs(tiny, noise, slots_per_token=slots_per_token)
        return fill_slots("upsample-mask", inputs, [text] * 300, random.Random(0))

    for slots_per_token, fewest, most in ((4.0, 2, 6), (2.0, 1, 3), (0.3, 1, 1)):
        copies = []
        for slot in slots(slots_per_token, 0.0):
            kept, counts = slot.unique_consecutive(dim=0, return_counts=True)
            assert torch.equal(kept, tokens) and not slot.requires_grad
            copies += counts.tolist()
        assert {*copies} == {*range(fewest, most + 1)}
        assert sum(copies) / len(copies) == pytest.approx(max(1, slots_per_token), rel=0.05)

    lost = []
    for slot in slots(2.0, 0.3):
        left = (slot[:, None] == tokens).all(2)
        assert torch.equal(left.any(1), slot.any(1)), "what is not masked is a token, and masks are zeros"
        lost.append((~left.any(0)).float().mean().item())
    assert sum(lost) / len(lost) == pytest.approx(0.3, abs=0.03), "the share of tokens without any copy"
    assert max(lost) > 0.6 and min(lost) == 0, "it is drawn for each sentence"


def test_a_ctc_path_has_a_symbol_for_each_frame_and_comes_with_the_audio_embeddings(tiny, noise):
    with torch.no_grad():
        logits, lengths = tiny.model.encoder(*tiny.model.encoder.inputs(*pad(noise)))
    paths, embeddings = tiny.ctc_paths(noise)
    assert all(map(torch.equal, embeddings, tiny.audio_embeddings(noise)))
    assert [len(path) for path in paths] == lengths.tolist()
    symbols = tiny.model.config.alphabet + "_"
    assert paths[1] == "".join(symbols[i] for i in logits[1, : lengths[1]].argmax(-1))
    assert any(set(path) - {"_"} for path in paths)


def test_a_simulated_slot_concatenates_units_or_single_letter_tokens(tiny, noise):
    embeddings = torch.cat(tiny.audio_embeddings(noise))
    recordings = [Recording("\nplay\n", [(0, 2), (1, 2), (3, 3), (2, 4)])]
    inventory = UnitInventory({letter: [(0, place)] for place, letter in enumerate("play")}, recordings, embeddings)
    slot = simulate(PseudoAudioInputs(tiny, 0.0, inventory=inventory), "play!", random.Random(1))
    assert torch.equal(slot, embeddings[[0, 1, 1, 2, 3]]), "with an inventory, the stretches of its units"
    plain = simulate(PseudoAudioInputs(tiny, 0.0), "a", random.Random(1))
    assert torch.equal(plain[0], tiny.embed([symbol_ids(tiny)["a"]])[0]), "without one, a token embedding a frame"
    assert not plain.requires_grad
