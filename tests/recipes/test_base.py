"""The recipe of the base model: its text filter, its speech, and each training stage at a tiny size."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from adapt.errors import DataError

FOLDER = Path(__file__).parents[2] / "recipes/base"


@pytest.fixture(autouse=True)
def beside_the_recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("text", "speech", "make"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_sentences_about_music_and_such_that_are_not_plain_are_left_out():
    from text import keep

    assert keep("could you tell me where the station is")
    for sentence in ("play the next song", "i love this band", "it is 5 o'clock", "yes", "b b b c"):
        assert not keep(sentence), sentence


def test_voices_of_the_test_sets_are_not_drawn_for_training():
    from speech import DEV_MBROLA, DEV_VARIANTS, TEST_VARIANTS, draw_voice, held_out_voice

    rng = random.Random(0)
    drawn = {draw_voice(rng).name for _ in range(3_000)}
    assert not drawn & {"slt", *(f"mb-{name}" for name in DEV_MBROLA)}, "voices of flite and MBROLA"
    assert not {name.partition("+")[2] for name in drawn} & {*TEST_VARIANTS, *DEV_VARIANTS}, "variants of espeak"
    held_out = {held_out_voice("espeak", rng).name.partition("+")[2] for _ in range(50)}
    assert held_out == set(TEST_VARIANTS), "held-out voices are those of the test set"


def test_voices_that_are_not_installed_are_one_error_before_any_synthesis(monkeypatch):
    import speech

    def speak(text, voice):
        if voice.name == "mb-us2":
            raise subprocess.CalledProcessError(1, "espeak-ng")
        if voice.engine == "pico":
            raise FileNotFoundError("pico2wave")
        return np.frombuffer(("none" if voice.name in ("slt", "clb") else voice.name).encode(), np.uint8)

    monkeypatch.setattr(speech, "speak", speak)
    problem = "speech: espeak mb-us2, flite slt, rhvoice clb, pico en-US, pico en-GB: no such voice; install"
    with pytest.raises(DataError, match=problem):
        speech.need_voices(speech.all_voices())


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_synthetic_speech_has_a_manifest_that_training_reads(tmp_path):
    from speech import Voice, utterance, write_manifest, write_part

    from adapt.train.speech import read_speech

    voice = Voice("espeak", "en-us+m1", 160, 50, 1.0)
    for number, texts in enumerate((["good morning to you all", "where is it"], ["thank you"])):
        write_part(tmp_path, "train", number, [utterance((text, voice)) for text in texts])
    write_manifest(tmp_path, "train", ["train"])
    speech = read_speech(tmp_path / "train.jsonl", str)
    assert sorted(item.text for item in speech.items) == ["good morning to you all", "thank you", "where is it"]
    assert {item.voice for item in speech.items} == {"espeak en-us+m1"}, "the voice"
    items, samples, lengths = speech.audio(speech.items)
    assert items == sorted(items) and lengths.tolist() == [round(16_000 * item.seconds) for item in items], "the length"
    assert 0.05 < samples.abs().max() <= 1.0 and not samples[0, lengths[0] :].any(), "audible, and padded with zeros"


def test_pack_averages_the_weights_of_several_models(tiny, tmp_path):
    import torch
    from make import main
    from safetensors.torch import load_file, save_file

    last, out = tmp_path / "last", tmp_path / "out"
    shutil.copytree(tiny.name, last)
    weights = load_file(last / "model.safetensors")
    save_file({k: v + 0.5 if v.is_floating_point() else v for k, v in weights.items()}, last / "model.safetensors")
    save_file({"vectors": torch.ones(3, tiny.hidden)}, last / "slot_examples.safetensors")
    main(["pack", tiny.name, tiny.name, str(last), "--out", str(out)], standalone_mode=False)
    packed = load_file(out / "model.safetensors")
    assert packed.keys() == weights.keys()
    for name, value in weights.items():
        expected = value + 0.5 / 3 if value.is_floating_point() else value
        assert torch.allclose(packed[name].float(), expected.float(), atol=2e-3), name
