from __future__ import annotations

import logging

import torch

from adapt.model.packing import target_logits
from adapt.recipe.base import Align
from adapt.train import align as align_module
from adapt.train.align import align, frame_inventory
from adapt.train.speech import read_speech

MORE = {"temperature": 1.0, "seed": 1, "bf16": False}
TEXTS = ["play the song", "stop the music", "what is it", "tell me please", "this né"] * 8


def settings(**changes) -> Align:
    return Align(**{"batch_seconds": 5.0, "steps": 30, **changes})


def test_alignment_trains_every_part_and_merges_its_lora(tiny, manifest, tmp_path):
    speech, names = read_speech(manifest, str), set(tiny.model.state_dict())
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    rates = {"projector_rate": 5e-3, "encoder_rate": 1e-3, "decoder_rate": 5e-3}
    how = settings(**rates, encoder_from=0.5, decoder="lora", rank=4, explicit="letters")
    log = align(tiny, speech, speech, TEXTS, how, folder=tmp_path, **MORE).log
    rows = [row for row in log if "other_loss" in row]
    assert rows[-1]["dev_loss"] < rows[0]["dev_loss"], "the loss on real audio falls"
    now = tiny.model.state_dict()
    assert set(now) == names, "LoRA is merged"
    changed = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert "encoder.ctc_head.weight" in changed, "the encoder and its CTC head are trained"
    assert any(name.startswith("projector.") for name in changed), "the projector is trained"
    in_decoder = {name for name in changed if name.startswith("language_model.")}
    assert in_decoder and all("self_attn" in name for name in in_decoder), "LoRA is on the attention layers alone"


def test_frozen_parts_do_not_change(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    align(tiny, speech, speech, TEXTS, settings(steps=2, decoder="frozen"), folder=tmp_path, **MORE)
    changed = {name for name, value in tiny.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("projector.") for name in changed)


def test_the_inventory_holds_frames_of_the_encoder(tiny, manifest):
    speech = read_speech(manifest, str)
    inventory = frame_inventory(tiny, speech, 5, seed=1)
    assert len(inventory.recordings) == 5 and inventory.embeddings.shape[1] == 16
    assert len(frame_inventory(tiny, speech, 2_000, seed=1).recordings) == 20, "all recordings where there are fewer"


def test_a_decoder_that_ignores_the_audio_is_reported(tiny, manifest, tmp_path, caplog):
    speech = read_speech(manifest, str)
    for parameter in tiny.model.projector.parameters():
        torch.nn.init.zeros_(parameter)
    how = settings(steps=20, batch_seconds=2.0, projector_rate=1e-9, decoder="frozen", simulated=0.0)
    with caplog.at_level(logging.WARNING):
        align(tiny, speech, speech, [], how, folder=tmp_path, **MORE)
    assert "the decoder ignores the audio" in caplog.text


def test_prompts_list_the_names_that_are_drawn(tiny, manifest, tmp_path, monkeypatch):
    seen = []

    def listed(speech_llm, slots, targets, names):
        seen.extend(map(tuple, names))
        return target_logits(speech_llm, slots, targets, names)

    monkeypatch.setattr(align_module, "target_logits", listed)
    speech = read_speech(manifest, str)
    align(
        tiny,
        speech,
        speech,
        TEXTS,
        settings(steps=2),
        folder=tmp_path,
        **MORE,
        lists=lambda text, _: (text.split()[0],),
    )
    said = {text.split()[0] for text in [*TEXTS, *(item.text for item in speech.items)]}
    drawn = [names[0] for names in seen if names]
    assert len(drawn) > 4 and set(drawn) <= said
