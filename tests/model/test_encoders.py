"""Pretrained and new audio encoders: padding changes nothing, parts are frozen, heads are kept."""

from __future__ import annotations

import pytest
import torch
import transformers

from adapt.errors import ModelError
from adapt.model.encoders import conformer, pretrained, relettered
from adapt.model.features import pad

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WAVE = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
ENCODER_DECODER = {
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
        ("WhisperForConditionalGeneration", ENCODER_DECODER, 50),
    ],
)
def test_pretrained_encoders_give_the_same_alone_and_in_a_batch(model, config, rate, noise, tmp_path):
    cls = getattr(transformers, model)
    torch.manual_seed(0)
    cls(cls.config_class(**config)).save_pretrained(tmp_path / "theirs")
    encoder = pretrained(str(tmp_path / "theirs"), "abc ").eval()
    encoder.save_pretrained(tmp_path / "ours")
    again = pretrained(str(tmp_path / "ours"), " ca").eval()  # its head has these letters already, in its own order
    with torch.no_grad():
        together, counts = encoder(*encoder.inputs(*pad(noise)))
        assert together.shape[-1] == 5
        assert torch.equal(together, again(*again.inputs(*pad(noise)))[0])
        for samples, row, count in zip(noise, together, counts.tolist(), strict=True):
            assert abs(count - rate * len(samples) / 16_000) <= 2
            (alone,), _ = encoder(*encoder.inputs(*pad([samples])))
            torch.testing.assert_close(alone[:count], row[:count], atol=1e-4, rtol=1e-4)
    encoder.freeze("first")
    frozen = [name for name, p in encoder.named_parameters() if not p.requires_grad and "positions" not in name]
    assert frozen and all("conv" in name or "subsampling" in name or "feature_extractor" in name for name in frozen)
    encoder.freeze("all")
    assert {name for name, p in encoder.named_parameters() if p.requires_grad} == {"ctc_head.weight", "ctc_head.bias"}


def test_audio_passes_the_first_layers_of_a_new_conformer(noise):
    torch.manual_seed(1)
    encoder = conformer("ab", hidden_size=160, layers=1, heads=2, channels=32, subsampling=4).eval()
    inputs, mask = encoder.inputs(*pad(noise))
    outputs = {}
    for name in ("subsampling", "layers.0.conv"):
        encoder.encoder.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: outputs.update({name: output})
        )
    encoder(inputs, mask)
    assert all(output.std() > 0.03 for output in outputs.values())  # 0.0001 and 0.001 with a standard deviation of 0.02


def test_a_head_over_another_alphabet_keeps_the_weights_of_common_letters(tiny, noise):
    before = tiny.model.encoder.eval()
    after = relettered(before, "ß" + before.config.alphabet[::-1][3:]).eval()
    inputs = before.inputs(*pad(noise))
    with torch.no_grad():
        one, other = (encoder(*inputs)[0] for encoder in (before, after))
    stays = [before.config.alphabet.index(c) for c in after.config.alphabet[1:]] + [-1]
    torch.testing.assert_close(one[..., stays], other[..., 1:])


def test_a_model_that_is_no_audio_encoder_is_an_error(tmp_path):
    transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a 'gpt2' model; give one of parakeet_encoder, wav2vec2"):
        pretrained(str(tmp_path), "abc")
