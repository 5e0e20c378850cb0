"""Texts that share rows, or the cache of a prompt: their logits and gradients are those of each text alone."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from transformers.cache_utils import LinearAttentionLayer
from transformers.models.nemotron_h import modeling_nemotron_h

from adapt.model import adapter, packing
from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
from adapt.model.packing import can_cache, logits_after, target_logits
from adapt.model.speech_llm import SpeechLLM, token_loss

SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 16}
PACK = {
    **{name: GROUPED for name in ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3Text", "Granite")},
    **{name: {**GROUPED, "pad_token_id": 0} for name in ("SmolLM3", "Olmo2")},
    **{name: {**SMALL, "pad_token_id": 0} for name in ("Phi3", "GPTNeoX")},
    "GPT2": {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 2},
}
NOT = {
    "Mamba": {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Bloom": {"vocab_size": 50, "hidden_size": 32, "n_layer": 2, "n_head": 2},  # positions follow from the mask
}
LAYERS = {"layers_block_type": ["linear_attention", "moe", "full_attention", "linear_attention"], "chunk_size": 8}
HEADS = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_shared_experts": 1}
EXPERTS |= {"moe_shared_expert_intermediate_size": 16, "n_group": 1, "topk_group": 1}
SLIDING = {"swa_num_attention_heads": 2, "swa_num_key_value_heads": 1, "swa_head_dim": 16, "sliding_window_size": 16}
RELATIVE = {"local_layer_ids": [0], "d_rel": 4, "rel_extent": 16, "logits_mup_width_multiplier": 1.0}
STATEFUL = {
    "NemotronH": {**GROUPED, **LAYERS, **HEADS, **EXPERTS},
    "InklingText": {**GROUPED, **SLIDING, **RELATIVE, **EXPERTS, "pad_token_id": 0, "bos_token_id": None},
}


def decoder(tiny: SpeechLLM, name: str, config: dict) -> SpeechLLM:
    """A speech LLM in float64 with random weights; name: of the class of its decoder."""
    torch.manual_seed(0)
    settings = {"audio_config": tiny.model.config.audio_config, "projector_size": 16, "audio_token_id": 60}
    text_config = getattr(transformers, f"{name}Config")(**config)
    model = ComposedForSpeechRecognition(ComposedConfig(text_config=text_config, **settings)).double().eval()
    for parameter in model.language_model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return SpeechLLM(name, model.requires_grad_(False), tiny.tokenizer, [1, 9, 8, 7, 6], [5, 4], [2], 30.0)


def naive(llm: SpeechLLM, slots, targets, through=None) -> torch.Tensor:
    """The logits of all target tokens, one text after another."""
    rows = [torch.cat([llm.prompt(slot), llm.embed(target)]) for slot, target in zip(slots, targets, strict=True)]
    logits = [llm.forward(row[None], through=through)[0] for row in rows]
    return torch.cat([row[-len(target) - 1 : -1] for row, target in zip(logits, targets, strict=True)])


def with_random_lora(llm: SpeechLLM) -> torch.nn.Module:
    """The model with a LoRA that changes its outputs."""
    lora = adapter.add_lora(llm, 4, 8, 0.0).double()
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(2))
    return lora


def inputs(llm: SpeechLLM, length: int = 20) -> tuple[list, list]:
    """A soft prompt in the slots of half of the texts, other slots, and one without a prompt; targets of any length."""
    generator = torch.Generator().manual_seed(1)
    soft, *others = (torch.randn(n, llm.hidden, generator=generator).double().requires_grad_() for n in (length, 7, 9))
    slots = [soft, others[0], soft, soft, others[1], soft, None, soft]
    lengths = [3, 17, 9, 1, 4, 12, 5, 17]
    return slots, [torch.randint(3, 50, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("kind", [*PACK, *NOT])
def test_gradients_are_those_of_each_text_alone(tiny, kind):
    llm = decoder(tiny, kind, PACK.get(kind) or NOT[kind])
    slots, targets = inputs(llm)
    logits, labels = target_logits(llm, slots, targets)
    assert llm.packs == (kind in PACK)
    expected = naive(llm, slots, targets)
    # Layers compute some steps in float32: norms, softmax, rotations.
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    chosen = [slot for slot in dict.fromkeys(slots) if slot is not None]
    ours, theirs = (torch.autograd.grad(token_loss(x, labels), chosen, retain_graph=True) for x in (logits, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_gradients_are_equal_in_every_layout(tiny, monkeypatch, count):
    llm = decoder(tiny, "GPT2", {**PACK["GPT2"], "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0})
    slots, targets = inputs(llm)
    lora = with_random_lora(llm)
    weights = [slot for slot in dict.fromkeys(slots) if slot is not None]
    weights += [parameter for parameter in lora.parameters() if parameter.requires_grad]
    monkeypatch.setattr(packing, "_cheapest", lambda texts, hidden: packing._layout(texts, count))
    logits, labels = target_logits(llm, slots, targets, through=lora)
    assert llm.packs, "else each text has a row of its own"
    found = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), weights)
    expected = naive(llm, slots, targets, through=lora)
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)
    for one, other in zip(
        found, torch.autograd.grad(torch.nn.functional.cross_entropy(expected, labels), weights), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_what_is_shared_is_computed_once(tiny, monkeypatch):
    llm = copy.copy(tiny)
    soft, seen = torch.randn(60, llm.hidden), []
    monkeypatch.setattr(llm, "logits_at", lambda rows, *rest, **_: seen.append(rows.shape[:2]) or rows[0])
    llm.packs = True
    target_logits(llm, [soft] * 32, [[5] * 10] * 32)
    ((rows, length),) = seen
    assert rows == 1 and length <= len(llm.prompt(soft)) + 32 * 10 + packing.GRID
    prompts = [llm.prompt(soft[:30]), llm.prompt(soft[30:])]
    logits_after(llm, [*[prompts[0]] * 4, *[prompts[1]] * 4], [[5, 6]] * 8)
    assert seen[1].numel() <= 2 * (len(prompts[0]) + 8) + 2 * packing.GRID


def test_texts_that_a_window_would_cut_have_rows_of_their_own(tiny):
    llm = decoder(tiny, "Mistral", {**GROUPED, "sliding_window": 16})
    slots, targets = inputs(llm)
    logits, _ = target_logits(llm, slots, targets)
    torch.testing.assert_close(logits, naive(llm, slots, targets), atol=1e-5, rtol=1e-5)
    assert llm.packs, "shorter texts would share rows"


def all_in_float64(llm: SpeechLLM, monkeypatch) -> None:
    """Let layers compute in float64 what they would compute in float32."""
    llm.model.language_model.set_experts_implementation("eager")
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.parametrize("kind", STATEFUL)
def test_gradients_through_the_cache_of_a_prompt_are_those_of_each_text_alone(tiny, kind, monkeypatch):
    llm = decoder(tiny, kind, STATEFUL[kind])
    lora = with_random_lora(llm).train()
    all_in_float64(llm, monkeypatch)
    slots, targets = inputs(llm, length=70)
    weights = [slot for slot in dict.fromkeys(slots) if slot is not None]
    weights += [parameter for parameter in lora.parameters() if parameter.requires_grad]
    expected = naive(llm, slots, targets, through=lora)
    shapes, forward = [], llm.forward
    monkeypatch.setattr(llm, "forward", lambda rows, *a, **b: shapes.append(rows.shape[:2]) or forward(rows, *a, **b))
    prompt = len(llm.prompt(slots[0]))
    for recomputed, passes in ((False, [(1, prompt - 1), (5, 32), (3, 32)]), (True, [(8, 96)])):
        if recomputed:
            llm.model.get_decoder().activation_checkpointing_enable({"use_reentrant": False})
        logits, labels = target_logits(llm, slots, targets, through=lora)
        assert shapes[-len(passes) :] == passes and (llm.packs, llm.caches) == (False, True)
        torch.testing.assert_close(logits, expected, atol=1e-9, rtol=1e-9)
        ours, theirs = (
            torch.autograd.grad(torch.nn.functional.cross_entropy(x, labels), weights, retain_graph=True)
            for x in (logits, expected)
        )
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_a_kernel_may_keep_the_state_of_a_prompt_for_its_backward_pass(tiny, monkeypatch):
    scan, one = modeling_nemotron_h.mamba2_chunk_scan, torch.ones((), requires_grad=True)

    def keeps(*args, initial_states=None, **options):  # a product keeps its factors
        return scan(*args, initial_states=None if initial_states is None else initial_states * one, **options)

    llm = decoder(tiny, "NemotronH", STATEFUL["NemotronH"])
    llm.model.language_model.set_experts_implementation("eager")
    monkeypatch.setattr(modeling_nemotron_h, "mamba2_chunk_scan", keeps)
    assert can_cache(llm)


@pytest.mark.parametrize("fault", ["forgets", "detaches", None])
def test_no_cache_is_used_that_changes_logits_or_gradients(tiny, monkeypatch, fault):
    llm = decoder(tiny, "NemotronH", STATEFUL["NemotronH"])
    llm.model.language_model.set_experts_implementation("eager")
    update = LinearAttentionLayer.update_recurrent_state
    if fault == "forgets":
        monkeypatch.setattr(transformers.Cache, "get_recurrent_state", lambda *_, **__: None)
    if fault == "detaches":
        detached = lambda layer, states, **options: update(layer, states.detach(), **options)  # noqa: E731
        monkeypatch.setattr(LinearAttentionLayer, "update_recurrent_state", detached)
    with torch.no_grad():  # as in an evaluation
        assert can_cache(llm) == (fault is None)


def test_a_decoder_that_takes_no_cache_of_this_kind_has_rows_for_each_text(tiny):
    assert not can_cache(decoder(tiny, "Mamba", NOT["Mamba"]))
