import math

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig
from peft.tuners.lora import LoraModel

from adapt.errors import DataError, ModelError
from adapt.model import adapter
from adapt.model.composed import PROJECTORS, ComposedConfig, ComposedForSpeechRecognition
from adapt.model.encoders import conformer, pretrained, relettered
from adapt.model.features import log_mel, pad
from adapt.model.load import load_speech_llm
from adapt.model.tokenizer import train_tokenizer, unwritable, with_letters


def test_slot_length_is_the_encoders_own_and_padding_changes_nothing(tiny, noise):
    alone = [tiny.audio_embeddings([samples])[0] for samples in noise]
    together = tiny.audio_embeddings(noise)
    for samples, one, batched in zip(noise, alone, together, strict=True):
        frames = len(samples) // 160 + 1
        encoded = math.ceil(math.ceil(frames / 2) / 2)
        assert len(one) == math.ceil(encoded / 2)
        torch.testing.assert_close(one, batched, atol=1e-4, rtol=1e-4)


def test_ids_with_audio_equal_embeddings_with_slot_vectors(tiny, noise):
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


def test_generate_takes_audio_as_other_speech_llms_do(tiny, noise):
    slots = tiny.audio_embeddings(noise[1:2])
    audio = tiny.model.config.audio_token_id
    ids = torch.tensor([[*tiny.before, *[audio] * len(slots[0]), *tiny.after]])
    features, mask = tiny.model.encoder.inputs(*pad([noise[1]]))
    more = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2, "eos_token_id": 2, "pad_token_id": 3}
    by_ids = tiny.model.generate(ids, input_features=features, feature_attention_mask=mask, **more)
    by_embeddings = tiny.model.generate(inputs_embeds=tiny.prompt(slots[0])[None], **more)
    assert by_ids[0, ids.shape[1] :].tolist() == by_embeddings[0].tolist()


def test_reload_is_bit_identical(tiny, noise, tmp_path):
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save_pretrained(tmp_path)
    again = load_speech_llm(str(tmp_path), device="cpu")
    for before, after in zip(tiny.audio_embeddings(noise), again.audio_embeddings(noise), strict=True):
        assert torch.equal(before, after)
    assert again.target_ids("play it") == tiny.target_ids("play it")


def test_unknown_and_misfitting_models_are_refused(tiny, tmp_path):
    with pytest.raises(ModelError, match="base 'tinny': no such folder"):
        load_speech_llm("tinny")
    tiny.model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"projector_size": 16', '"projector_size": 17'))
    with pytest.raises(ModelError, match="3 weights do not fit"):
        load_speech_llm(str(tmp_path))


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


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WAVE = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LISTENING = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "vocab_size": 100,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
}
BINS = {"num_mel_bins": 80, "subsampling_conv_channels": 8}


@pytest.mark.parametrize(
    ("model", "config", "rate"),
    [
        ("ParakeetForCTC", {"vocab_size": 30, "pad_token_id": 29, "encoder_config": {**TINY, **BINS}}, 12.5),
        ("Wav2Vec2ForCTC", {**TINY, **WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True}, 50),
        ("HubertModel", {**TINY, **WAVE}, 50),
        ("WavLMModel", {**TINY, **WAVE}, 50),
        ("WhisperForConditionalGeneration", LISTENING, 50),
    ],
)
def test_pretrained_encoders_hear_the_same_alone_and_together(model, config, rate, noise, tmp_path):
    cls = getattr(transformers, model)
    torch.manual_seed(0)
    cls(cls.config_class(**config)).save_pretrained(tmp_path / "theirs")
    encoder = pretrained(str(tmp_path / "theirs"), "abc ").eval()
    encoder.save_pretrained(tmp_path / "ours")
    again = pretrained(str(tmp_path / "ours"), " ca").eval()  # its own head has these, in its own order
    with torch.no_grad():
        together, counts = encoder(*encoder.inputs(*pad(noise)))
        assert together.shape[-1] == 5
        assert torch.equal(together, again(*again.inputs(*pad(noise)))[0])
        for samples, row, count in zip(noise, together, counts.tolist(), strict=True):
            assert abs(count - rate * len(samples) / 16_000) <= 2
            (alone,), _ = encoder(*encoder.inputs(*pad([samples])))
            torch.testing.assert_close(alone[:count], row[:count], atol=1e-4, rtol=1e-4)
    encoder.freeze("first")
    held = [name for name, p in encoder.named_parameters() if not p.requires_grad and "positions" not in name]
    assert held and all("conv" in name or "subsampling" in name or "feature_extractor" in name for name in held)
    encoder.freeze("all")
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == {"ctc_head.weight", "ctc_head.bias"}


def test_audio_comes_through_the_first_layers_of_a_new_conformer(noise):
    torch.manual_seed(1)
    encoder = conformer("ab", hidden_size=160, layers=1, heads=2, channels=32, subsampling=4).eval()
    inputs, mask = encoder.inputs(*pad(noise))
    outputs = {}
    for name in ("subsampling", "layers.0.conv"):
        encoder.encoder.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: outputs.update({name: output})
        )
    encoder(inputs, mask)
    assert all(output.std() > 0.03 for output in outputs.values())  # 0.0001 and 0.001 with a deviation of 0.02


def test_a_head_over_other_letters_keeps_those_that_stay(tiny, noise):
    before = tiny.model.encoder.eval()
    after = relettered(before, "ß" + before.config.alphabet[::-1][3:]).eval()
    inputs = before.inputs(*pad(noise))
    with torch.no_grad():
        one, other = (encoder(*inputs)[0] for encoder in (before, after))
    stays = [before.config.alphabet.index(c) for c in after.config.alphabet[1:]] + [-1]
    torch.testing.assert_close(one[..., stays], other[..., 1:])


def test_a_model_that_is_no_audio_encoder_is_refused(tmp_path):
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a 'gpt2' model; give one of parakeet_encoder, wav2vec2"):
        pretrained(str(tmp_path), "abc")


def test_a_tokenizer_has_a_piece_for_each_letter_that_the_encoder_hears():
    texts = ["good day to you", "a day in may", "you and me", "the dog ran", "we go home", "no more of it"]
    tokenizer = train_tokenizer(texts, 36, "abcdefghijklmnopqrstuvwxyz' ")
    ids = tokenizer.convert_tokens_to_ids([*"abcdefghijklmnopqrstuvwxyz'▁"])
    assert tokenizer.unk_token_id not in ids and len(set(ids)) == 28
    assert tokenizer.decode(tokenizer.encode("jazz day", add_special_tokens=False)) == "jazz day"
    for vocab_size, problem in (
        (12, "more letters than that; give at least"),
        (500, "few different words; give at most"),
    ):
        with pytest.raises(DataError, match=problem):
            train_tokenizer(texts, vocab_size)


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_that_goes_on_is_given_the_letters_it_lacks(tied, tmp_path):
    tokenizer = load_speech_llm("tiny").tokenizer
    shape = {"vocab_size": 1000, "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.LlamaConfig(**shape, num_hidden_layers=1, tie_word_embeddings=tied)
    llm = transformers.LlamaForCausalLM(config)
    assert unwritable(tokenizer, "abc' äßø") == "äßø" and unwritable(tokenizer, "abc' ") == ""
    assert with_letters(llm, tokenizer, "abc' ") == (llm, tokenizer)
    before = [w.detach().clone() for w in (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight)]
    llm, more = with_letters(llm, tokenizer, "abc' äßø")
    more.save_pretrained(tmp_path)
    for each in (more, transformers.AutoTokenizer.from_pretrained(tmp_path)):
        ids = each.encode("straße spät", add_special_tokens=False)
        assert {1000, 1001} < set(ids) and each.decode(ids) == "straße spät"
        assert each.encode("play the song") == tokenizer.encode("play the song")
        assert each.decode([*each.encode("<speech>ä"), 2, 3], skip_special_tokens=True) == "ä"
    after = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    a = tokenizer.convert_tokens_to_ids("a")
    for old, new in zip(before, after, strict=True):
        assert len(new) == llm.config.vocab_size == 1003 and torch.equal(old, new[:1000])
        assert torch.equal(new[1000], old[a]) and torch.allclose(new[1001], old.mean(0), atol=1e-6)


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
    more = {"audio_config": tiny.model.config.audio_config, "projector": projector, "projector_size": 16}
    text_config = getattr(transformers, f"{name}Config")(**config)
    # the token of the slot lies outside the vocabulary
    model = ComposedForSpeechRecognition(ComposedConfig(text_config=text_config, stack=3, audio_token_id=60, **more))
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
