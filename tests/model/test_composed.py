import math

import numpy as np
import pytest
import torch

from adapt.errors import ModelError
from adapt.model.features import log_mel, pad
from adapt.model.speech_llm import load


def test_slot_length_is_the_encoders_own_and_padding_changes_nothing(tiny, noise):
    alone = [tiny.slot_vectors([samples])[0] for samples in noise]
    together = tiny.slot_vectors(noise)
    for samples, one, batched in zip(noise, alone, together, strict=True):
        frames = len(samples) // 160 + 1
        encoded = math.ceil(math.ceil(frames / 2) / 2)
        assert len(one) == math.ceil(encoded / 2)
        torch.testing.assert_close(one, batched, atol=1e-4, rtol=1e-4)


def test_ids_with_audio_equal_embeddings_with_slot_vectors(tiny, noise):
    slots = tiny.slot_vectors(noise[1:2])
    audio = tiny.model.config.audio_token_id
    ids = torch.tensor([[*tiny.before, *[audio] * len(slots[0]), *tiny.after]])
    features, mask = log_mel(*pad([noise[1]]))
    with torch.no_grad():
        by_ids = tiny.model(input_ids=ids, input_features=features, feature_attention_mask=mask).logits
        by_embeddings = tiny.model(inputs_embeds=tiny.prompt(slots[0])[None]).logits
    torch.testing.assert_close(by_ids, by_embeddings, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="slot positions"):
        tiny.model(input_ids=ids[:, 1:-2], input_features=features, feature_attention_mask=mask)


def test_generate_takes_audio_as_other_speech_llms_do(tiny, noise):
    slots = tiny.slot_vectors(noise[1:2])
    audio = tiny.model.config.audio_token_id
    ids = torch.tensor([[*tiny.before, *[audio] * len(slots[0]), *tiny.after]])
    features, mask = log_mel(*pad([noise[1]]))
    more = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2, "eos_token_id": 2, "pad_token_id": 3}
    by_ids = tiny.model.generate(ids, input_features=features, feature_attention_mask=mask, **more)
    by_embeddings = tiny.model.generate(inputs_embeds=tiny.prompt(slots[0])[None], **more)
    assert by_ids[0, ids.shape[1] :].tolist() == by_embeddings[0].tolist()


def test_reload_is_bit_identical(tiny, noise, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    again = load(str(tmp_path), device="cpu")
    for before, after in zip(tiny.slot_vectors(noise), again.slot_vectors(noise), strict=True):
        assert torch.equal(before, after)
    assert again.target_ids("play it") == tiny.target_ids("play it")


def test_unknown_and_misfitting_models_are_refused(tiny, tmp_path):
    with pytest.raises(ModelError, match="no model 'tinny'"):
        load("tinny")
    tiny.model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"projector_size": 16', '"projector_size": 17'))
    with pytest.raises(ModelError, match="3 weights do not fit"):
        load(str(tmp_path))


def test_log_mel_of_a_tone_peaks_at_its_bin():
    time = np.arange(16_000) / 16_000
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(16_000)
    rising = np.sin(2 * np.pi * 1_000 * time) * time + quiet
    (energies,), _ = log_mel(*pad([rising.astype(np.float32)]))
    assert energies.shape == (101, 80)
    assert abs(energies.mean(0)).max() < 1e-4
    assert log_mel(*pad([np.zeros(10, np.float32)]))[0].shape == (1, 1, 80)
    together, mask = log_mel(*pad([rising.astype(np.float32), np.tile(quiet, 2).astype(np.float32)]))
    torch.testing.assert_close(together[0, :101], energies, atol=1e-4, rtol=1e-4)
    assert mask.sum(1).tolist() == [101, 201]
