"""Composed speech LLMs: the slot, reloading, and any causal LM as the decoder."""

from __future__ import annotations

import math
import shutil
from unittest.mock import patch

import pytest
import torch
import transformers
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from adapt.errors import ModelError
from adapt.model import adapter, load
from adapt.model.bases import tensors
from adapt.model.composed import PROJECTORS, ComposedConfig, ComposedForSpeechRecognition
from adapt.model.features import pad
from adapt.model.load import load_speech_llm


def test_slot_length_follows_from_the_frames_and_padding_changes_nothing(tiny, noise):
    alone = [tiny.audio_embeddings([samples])[0] for samples in noise]
    together = tiny.audio_embeddings(noise)
    for samples, one, batched in zip(noise, alone, together, strict=True):
        frames = len(samples) // 160 + 1
        encoded = math.ceil(math.ceil(frames / 2) / 2)
        assert len(one) == math.ceil(encoded / 2)
        torch.testing.assert_close(one, batched, atol=1e-4, rtol=1e-4)


def test_ids_with_audio_give_the_logits_of_embeddings_in_the_slot(tiny, noise):
    slots = tiny.audio_embeddings(noise[1:2])
    audio = tiny.model.config.audio_token_id
    ids = torch.tensor([[*tiny.before, *[audio] * len(slots[0]), *tiny.after]])
    features, mask = tiny.model.encoder.inputs(*pad([noise[1]]))
    with torch.no_grad():
        by_ids = tiny.model(input_ids=ids, input_features=features, feature_attention_mask=mask).logits
        by_embeddings = tiny.model(inputs_embeds=tiny.prompt(slots[0])[None]).logits
    torch.testing.assert_close(by_ids, by_embeddings, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="slot positions"):
        tiny.model(input_ids=ids[:, 1:-2], input_features=features, feature_attention_mask=mask)


def test_generate_takes_audio_as_in_other_speech_llms(tiny, noise):
    slots = tiny.audio_embeddings(noise[1:2])
    audio = tiny.model.config.audio_token_id
    ids = torch.tensor([[*tiny.before, *[audio] * len(slots[0]), *tiny.after]])
    features, mask = tiny.model.encoder.inputs(*pad([noise[1]]))
    settings = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2, "eos_token_id": 2, "pad_token_id": 3}
    by_ids = tiny.model.generate(ids, input_features=features, feature_attention_mask=mask, **settings)
    by_embeddings = tiny.model.generate(inputs_embeds=tiny.prompt(slots[0])[None], **settings)
    assert by_ids[0, ids.shape[1] :].tolist() == by_embeddings[0].tolist()


def test_the_output_layer_sees_the_last_states_alone_and_in_one_block(tiny, noise):
    rows = torch.stack([tiny.prompt(tiny.audio_embeddings(noise[:1])[0])] * 3)
    every, seen = tiny.forward(rows), []
    layer = tiny.model.get_output_embeddings()
    with torch.no_grad(), patch.object(layer, "forward", lambda states: seen.append(states) or real(states)):
        real = type(layer).forward.__get__(layer)
        last = tiny.forward(rows, keep=2)
    assert [states.shape[:2] for states in seen] == [(3, 2)]
    assert seen[0].is_contiguous(), "of others, torch copies frozen weights of the layer for each row"
    torch.testing.assert_close(last, every[:, -2:])


def test_reload_is_bit_identical(tiny, noise, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    again = load_speech_llm(str(tmp_path), device="cpu")
    for before, after in zip(tiny.audio_embeddings(noise), again.audio_embeddings(noise), strict=True):
        assert torch.equal(before, after)
    assert again.target_ids("play it") == tiny.target_ids("play it")


@pytest.mark.parametrize(
    "saved, large, computes", [("half", 0, True), ("float", 0, True), ("half", 1e9, True), ("half", 0, False)]
)
def test_a_large_model_in_half_precision_is_bf16_on_a_cpu_that_computes_in_it(
    tiny, tmp_path, monkeypatch, saved, large, computes
):
    monkeypatch.setattr(load, "LARGE", large)
    monkeypatch.setattr(load, "computes_in_bf16", lambda device: computes)
    getattr(tiny.model, saved)().save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    wanted = torch.bfloat16 if (saved, large, computes) == ("half", 0, True) else torch.float32
    assert load_speech_llm(str(tmp_path), "cpu").model.dtype == wanted
    assert load_speech_llm(str(tmp_path), "cpu", dtype="fp32").model.dtype == torch.float32


def test_unknown_models_and_weights_that_do_not_fit_are_errors(tiny, tmp_path):
    with pytest.raises(ModelError, match="base 'tinny': no such folder"):
        load_speech_llm("tinny")
    tiny.model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"projector_size": 16', '"projector_size": 17'))
    with pytest.raises(ModelError, match="3 weights do not fit"):
        load_speech_llm(str(tmp_path))


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SMALL = {"vocab_size": 50, **TINY}


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Llama", SMALL),
        ("Qwen2", {**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True}),
        ("GPT2", {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2}),
        ("GPTNeoX", SMALL),
        ("OPT", {"vocab_size": 50, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                 "word_embed_proj_dim": 32}),
    ],
)  # fmt: skip
def test_any_causal_lm_takes_the_slot_reloads_and_merges_lora(name, config, projector, tiny, noise, tmp_path):
    torch.manual_seed(0)
    common = {"audio_config": tiny.model.config.audio_config, "projector": projector, "projector_size": 16}
    text_config = getattr(transformers, f"{name}Config")(**config)
    # the token of the slot lies outside the vocabulary
    model = ComposedForSpeechRecognition(ComposedConfig(text_config=text_config, stack=3, audio_token_id=60, **common))
    inputs = dict(
        zip(("input_features", "feature_attention_mask"), model.eval().encoder.inputs(*pad(noise[1:2])), strict=True)
    )
    slots = -(-int(model.encoder.frames(*inputs.values())[1]) // 3)
    ids = torch.tensor([[1, *[60] * slots, 5, 6]])
    with torch.no_grad():
        logits = model(input_ids=ids, **inputs).logits
        model.save_pretrained(tmp_path)
        again = ComposedForSpeechRecognition.from_pretrained(tmp_path, dtype=torch.float32).eval()
        assert torch.equal(logits, again(input_ids=ids, **inputs).logits)

        layers = adapter.linear_layers(model.language_model, "language_model", attention=True)
        tuner = LoraModel(model, LoraConfig(r=2, target_modules=layers, init_lora_weights=False), "align")
        tuned = model(input_ids=ids, **inputs).logits
        assert not torch.allclose(tuned, logits, atol=1e-4)
        lora = [name for name, _ in model.named_parameters() if "lora_" in name]
        assert lora and all(name.startswith("language_model.") and "att" in name for name in lora)
        merged = tuner.merge_and_unload()
        torch.testing.assert_close(merged(input_ids=ids, **inputs).logits, tuned, atol=1e-4, rtol=1e-4)
        assert not [name for name, _ in merged.named_parameters() if "lora_" in name]
        found = adapter.linear_layers(merged.language_model, "language_model")
        assert len(found) > len(lora) // 2 and not any("head" in name for name in found)


@pytest.mark.parametrize("length", [0, 7, 10**6, 2**62])
def test_a_base_with_broken_weights_is_an_error(tiny, tmp_path, length):
    folder = shutil.copytree(tiny.name, tmp_path / "broken")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], length.to_bytes(8, "little") + whole[8:], b"", b"{}"):
        weights.write_bytes(content)
        with pytest.raises(ModelError, match=r"cannot be read|holds no weights"):
            load_speech_llm(str(folder), "cpu")
        if content[:8] != whole[:8]:  # the header of the first is whole
            with pytest.raises(ModelError, match="not a whole safetensors file"):
                tensors(folder)
