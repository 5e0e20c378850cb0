from __future__ import annotations

import dataclasses

import pytest
import torch

from adapt.model.unit_ctc import UnitCtc
from adapt.recipe.base import Align
from adapt.train.align import align
from adapt.train.explicit import EXPLICIT, SlotBatch
from adapt.train.speech import read_speech
from adapt.train.units import unit_writer


def test_the_table_has_the_choices_of_the_recipe():
    (field,) = (f for f in dataclasses.fields(Align) if f.name == "explicit")
    assert tuple(EXPLICIT) == field.metadata["choices"]


@pytest.mark.parametrize("explicit", [name for name, loss in EXPLICIT.items() if loss])
def test_an_explicit_loss_is_lowered_with_all_but_the_projector_frozen(explicit, tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    write = unit_writer("letters", tiny.tokenizer, [])
    tiny.model.unit_ctc = UnitCtc(4, 32)
    tiny.model.unit_ctc.units.copy_(torch.tensor(write("abcd")))
    items, samples, lengths = speech.audio(speech.items)

    def loss() -> float:
        with torch.no_grad():
            frames, counts = tiny.model.encoder.frames(*tiny.model.encoder.inputs(samples, lengths))
            embeddings, logits = tiny.model.projector(frames), tiny.model.encoder.ctc(frames)
        units = [write(item.text) for item in items]
        return EXPLICIT[explicit](SlotBatch(tiny, embeddings, -(-counts // 2), units, logits)).item()

    before, decoder = loss(), {k: v.clone() for k, v in tiny.model.language_model.state_dict().items()}
    settings = Align(
        steps=30,
        batch_seconds=5.0,
        projector_rate=1e-2,
        decoder="frozen",
        simulated=0.0,
        explicit=explicit,
        units="letters",
    )
    align(tiny, speech, speech, [], settings, temperature=1.0, folder=tmp_path, seed=1, bf16=False)
    assert loss() < 0.9 * before
    assert all(torch.equal(v, decoder[k]) for k, v in tiny.model.language_model.state_dict().items())
