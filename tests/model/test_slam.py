"""A model converted from SLAM-LLM computes what it did there, and weights without a place are an error."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, WavLMConfig, WavLMModel

from adapt.decode.beam_search import generate
from adapt.errors import ModelError
from adapt.model.load import load_speech_llm
from adapt.model.slam import from_slam, soft_prompt_of
from adapt.model.soft_prompt import load_soft_prompt

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WAVE = {"conv_dim": (16,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
PROMPT = "<speech>play the song:"  # the beginning of sentence comes after the slot


class Projector(nn.Module):
    """As in SLAM-LLM: it drops frames that do not fill a stack."""

    def __init__(self, stack: int):
        super().__init__()
        self.stack = stack
        self.linear1, self.linear2 = nn.Linear(32 * stack, 24), nn.Linear(24, 32)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        whole = frames[:, : len(frames[0]) // self.stack * self.stack]
        return self.linear2(self.linear1(whole.reshape(1, -1, 32 * self.stack)).relu())


@pytest.fixture
def theirs(tiny, tmp_path):
    """Encoder, projector and LLM with LoRA as in SLAM-LLM, and their files."""
    torch.manual_seed(0)
    config = WavLMConfig(**SMALL, **WAVE, feat_extract_norm="layer", do_stable_layer_norm=True)
    encoder, projector = WavLMModel(config).eval(), Projector(5)
    encoder.save_pretrained(tmp_path / "wavlm")
    llm = LlamaForCausalLM(LlamaConfig(vocab_size=len(tiny.tokenizer), **SMALL, bos_token_id=1, eos_token_id=2))
    llm.save_pretrained(tmp_path / "llm")
    tiny.tokenizer.save_pretrained(tmp_path / "llm")
    llm = get_peft_model(
        llm, LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    state = {f"encoder_projector.{k}": v for k, v in projector.state_dict().items()}
    state |= {f"llm.{k}": v for k, v in llm.state_dict().items() if "lora_" in k}
    torch.save(state, tmp_path / "model.pt")
    return encoder, projector, llm.eval()


def test_a_converted_model_has_the_same_embeddings_and_logits(tiny, theirs, noise, tmp_path):
    encoder, projector, llm = theirs
    from_slam(tmp_path / "model.pt", str(tmp_path / "wavlm"), str(tmp_path / "llm"), tmp_path / "out", PROMPT)
    ours = load_speech_llm(str(tmp_path / "out"), "cpu")
    assert ours.before == [] and ours.after[0] == 1, "the prompt with its beginning of sentence comes after the slot"
    assert not ours.has_ctc, "the encoder has no CTC head"
    assert ours.model.config.stack == 5, "the stack follows from the projector"
    samples = torch.from_numpy(noise[2])
    samples = (samples - samples.mean()) / samples.std(correction=0)
    with torch.no_grad():
        slot = projector(encoder(samples[None]).last_hidden_state)
        ids = torch.tensor([ours.after])
        wanted = llm(inputs_embeds=torch.cat([slot, llm.get_input_embeddings()(ids)], 1)).logits
        (embeddings,) = ours.audio_embeddings([noise[2]])
        logits = ours.forward(ours.prompt(embeddings)[None])
    torch.testing.assert_close(embeddings, slot[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, wanted, atol=1e-3, rtol=1e-3)
    assert generate(ours, [ours.prompt(embeddings)], 2, 5)[0][0], "it transcribes"


def test_a_checkpoint_that_does_not_fit_is_refused(theirs, tmp_path):
    state = torch.load(tmp_path / "model.pt", weights_only=True)

    def refused(match, changed, encoder="wavlm"):
        torch.save(changed, tmp_path / "changed.pt")
        with pytest.raises(ModelError, match=match):
            parts = (str(tmp_path / encoder), str(tmp_path / "llm"))
            from_slam(tmp_path / "changed.pt", *parts, tmp_path / "none", PROMPT)
        assert not (tmp_path / "none").exists()

    refused(
        "1 keys without a place, first 'encoder_projector.qformer'",
        state | {"encoder_projector.qformer": torch.ones(1)},
    )
    refused("no 'encoder_projector.linear2.bias'", {k: v for k, v in state.items() if "linear2.bias" not in k})
    refused("has only one half of a LoRA; name the LLM", {k: v for k, v in state.items() if "q_proj.lora_A" not in k})
    layer = "llm.base_model.model.model.layers.7.self_attn.q_proj.lora_A.default.weight"
    refused("is no layer of the LLM", state | {layer: torch.ones(4, 32)})
    refused(
        "has 99 inputs, which is no multiple of the 32 outputs of",
        state | {"encoder_projector.linear1.weight": torch.ones(24, 99)},
    )
    torch.save(state, tmp_path / "whole.pt")
    with pytest.raises(ModelError, match="cannot be loaded"):
        from_slam(tmp_path / "whole.pt", str(tmp_path / "nowhere"), "x", tmp_path / "none", PROMPT)
    with pytest.raises(ModelError, match="is not empty"):
        from_slam(tmp_path / "whole.pt", str(tmp_path / "wavlm"), str(tmp_path / "llm"), tmp_path, PROMPT)
    for content in ("no", ""):
        (tmp_path / "text.pt").write_text(content)
        with pytest.raises(ModelError, match="not a file of tensors"):
            from_slam(tmp_path / "text.pt", "", "", tmp_path / "none", PROMPT)


def test_a_tuned_prompt_becomes_a_soft_prompt(tiny, theirs, tmp_path):
    llm = LlamaForCausalLM.from_pretrained(tmp_path / "llm")
    tuned = get_peft_model(llm, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=6))
    tuned.save_pretrained(tmp_path / "tuned")
    assert soft_prompt_of(tmp_path / "tuned", tmp_path / "soft.safetensors") == 6
    vectors = load_soft_prompt(tmp_path / "soft.safetensors", tiny)
    torch.testing.assert_close(vectors, tuned.prompt_encoder["default"].embedding.weight.detach())
    with pytest.raises(ModelError, match=r"no adapter_config\.json"):
        soft_prompt_of(tmp_path / "llm", tmp_path / "x.safetensors")
