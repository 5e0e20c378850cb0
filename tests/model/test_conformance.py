"""Every speech LLM of transformers, by tiny models of its real class: one view of them that changes nothing.

All of them take minutes and are marked slow; a few stand for them in the default tests.
"""

from __future__ import annotations

import copy
import itertools
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from adapt.decode.beam_search import generate
from adapt.decode.ngram_fusion import NgramFusion
from adapt.errors import ModelError
from adapt.lm.boosting import boosting_automaton
from adapt.lm.phrases import Phrase, word_beginnings
from adapt.model import adapter
from adapt.model import learned_prompt as learning
from adapt.model.families import (
    INSTRUCTION,
    Request,
    audio_parameters,
    audio_token_id,
    chat,
    family_of,
    rate_of,
    tokenizers_chat,
)
from adapt.model.features import resampled
from adapt.model.learned_prompt import LearnedPrompt, with_learned, with_template
from adapt.model.load import _ends, _lost_scaling, _merge_own_lora, load_speech_llm
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.model.support import SUPPORTED
from adapt.train.decoder import tune_decoder
from adapt.train.project import Pairs, learn_from_pairs, ready
from adapt.train.soft_prompt import learn_prompt

from .families import FAMILIES, WITHOUT_MODEL, WITHOUT_PROCESSOR

FEW = ("qwen2_audio", "granite_speech", "gemma4", "qwen3_asr", "nemotron_h_omni")
WITHOUT_PART = {(kind, part) for kind in ("inkling_mm_model", "phi4_multimodal") for part in ("encoder", "projector")}
WITHOUT_PART = WITHOUT_PART - {("inkling_mm_model", "encoder")} | {("gemma4_unified", "encoder")}
WITHOUT_CHAT = {"voxtral"}
TEXT = ["play the song", "stop the music", "what is it", "louder please", "play it again"] * 3


def decoder_alone(folder: Path) -> SpeechLLM:
    """The view of a model whose processor cannot be built here, with a prompt of our own."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, SUPPORTED[config.model_type]).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in ("please write", "now"))
    ends = _ends(model, tokenizer)
    return SpeechLLM(str(folder), model, tokenizer, before, after, ends, 30.0, scale=_lost_scaling(model))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of each family, written when it is first asked for."""
    folders = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            FAMILIES[kind](folders[kind])
        return folders[kind]

    return folder_of


@pytest.fixture(
    params=[pytest.param(k, marks=() if k in FEW else pytest.mark.slow) for k in FAMILIES if k != "voxtral_realtime"]
)
def llm(request, made) -> SpeechLLM:
    if request.param in WITHOUT_MODEL:
        pytest.skip(WITHOUT_PROCESSOR[request.param])
    transformers.utils.logging.set_verbosity_error()
    folder = made(request.param)
    return decoder_alone(folder) if request.param in WITHOUT_PROCESSOR else load_speech_llm(str(folder), "cpu")


def drawn(llm: SpeechLLM, *lengths: int) -> list[torch.Tensor]:
    """Slots of random vectors."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, llm.hidden, generator=generator) for n in lengths]


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def test_text_by_ids_is_text_by_rows_and_so_is_the_loss(llm):
    ids = torch.tensor([llm.target_ids("please write what you hear")])
    with torch.no_grad():
        theirs = llm.model(input_ids=ids, labels=ids)
        ours = llm.forward(llm.rows(ids))
    close(ours, theirs.logits / llm.scale)
    if llm.scale == 1:
        close(token_loss(ours, ids), theirs.loss)


def test_a_frozen_model_lets_the_slot_learn(llm):
    llm.model.requires_grad_(False)
    slot = drawn(llm, 5)[0].requires_grad_()
    rows, mask, labels = llm.training_batch([slot, slot], [llm.target_ids(t) for t in TEXT[:2]])
    token_loss(llm.forward(rows, mask), labels).backward()
    assert slot.grad.norm() > 0 and slot.grad.isfinite().all()


def test_training_looks_at_labels_alone_and_attends_plainly_to_the_same_loss_and_gradient(llm):
    llm.model.requires_grad_(False)
    found, before = [], llm.model.get_decoder().config._attn_implementation
    for trains in (False, True):
        slots = [slot.requires_grad_() for slot in drawn(llm, 3, 9)]
        batch = llm.training_batch(slots, [llm.target_ids(t) for t in TEXT[:2]])
        with llm.plain_attention() if trains else nullcontext():
            attends = llm.model.get_decoder().config._attn_implementation
            assert attends == ("eager" if trains and before == "sdpa" else before)
            scored = llm.labelled(*batch) if trains else (llm.forward(*batch[:2]), batch[2])
            loss = token_loss(*scored)
            loss.backward()
        found.append((scored[0].shape[1], loss, *(slot.grad for slot in slots)))
    (length, *full), (kept, *part) = found
    assert kept < length and llm.model.get_decoder().config._attn_implementation == before
    for a, b in zip(full, part, strict=True):
        close(a, b)


def test_greedy_search_is_the_argmax_and_padding_changes_nothing(llm):
    prompts = [llm.prompt(slot) for slot in drawn(llm, 3, 9)]
    together = [h[0] for h in generate(llm, prompts, 1, 6)]
    assert together == [generate(llm, [prompt], 1, 6)[0][0] for prompt in prompts]
    for prompt, tokens in zip(prompts, together, strict=True):
        with torch.no_grad():
            best = llm.forward(torch.cat([prompt, llm.embed(tokens)])[None])[0].argmax(-1)
        assert best[len(prompt) - 1 :][: len(tokens)].tolist() == tokens


def searched(llm: SpeechLLM, prompt: torch.Tensor, num_beams: int, length: int, given) -> list[int]:
    """Beam search written out. given: what is added for (tokens so far), `[vocabulary]`."""
    beams, finished = [(0.0, [])], []
    for _ in range(length):
        found = []
        for total, tokens in beams:
            with torch.no_grad():
                logits = llm.forward(torch.cat([prompt, llm.embed(tokens)])[None], keep=1)[0, -1]
            fused = logits.double().log_softmax(-1) + given(tokens)
            found += [(total + float(s), [*tokens, t]) for t, s in enumerate(fused)]
        found.sort(key=lambda pair: -pair[0])
        finished += [(total / len(t), t[:-1]) for total, t in found[:num_beams] if t[-1] in llm.ends]
        beams = [pair for pair in found if pair[1][-1] not in llm.ends][:num_beams]
    return max([*finished, *((total / len(t), t) for total, t in beams)], key=lambda pair: pair[0])[1]


def test_fused_beams_equal_a_search_written_out(llm):
    pieces = llm.tokenizer.convert_ids_to_tokens(list(range(min(len(llm.tokenizer), llm.vocabulary))))
    begins = word_beginnings([*pieces, *[""] * (llm.vocabulary - len(pieces))])
    prompts = [llm.prompt(slot) for slot in drawn(llm, 3, 7)]
    plain = [h[0] for h in generate(llm, prompts, 3, 5)]
    rest = [i for i in range(20, 60) if i not in plain[0] + plain[1] + llm.ends]
    names = [*itertools.pairwise(rest), *((token,) for token in rest[::2])]
    automaton = boosting_automaton([[Phrase(name, name) for name in names]], begins, ends=llm.ends)

    def given(tokens):
        state = automaton.start(1)
        for token in tokens:
            state = automaton.advance(state)[1][:, token]
        return 9.0 * automaton.advance(state)[0][0].double()

    fused = [h[0] for h in generate(llm, prompts, 3, 5, [NgramFusion(automaton, 9.0)])]
    assert fused == [searched(llm, prompt, 3, 5, given) for prompt in prompts] != plain


@pytest.mark.parametrize("seconds", [0.6, 3.3])
def test_its_own_way_with_audio_is_ours(llm, seconds):
    if llm.processor is None:
        pytest.skip(WITHOUT_PROCESSOR[llm.model.config.model_type])
    samples = np.random.default_rng(0).standard_normal(int(16_000 * seconds)).astype(np.float32) / 10
    family = family_of(llm.model.config)
    request = Request(resampled(samples, 16_000, rate_of(llm.processor)), "en", llm.name)
    inputs = family.request(llm.processor, request)
    with torch.no_grad():
        theirs = llm.model(**inputs, **dict(family.more)).logits / llm.scale
        ours = llm.forward(llm.prompt(llm.audio_embeddings([samples])[0])[None])
    close(ours, theirs)
    ids = inputs["input_ids"][0].tolist()
    assert audio_token_id(llm.model.config) in ids[len(llm.before) : len(ids) - len(llm.after)]
    assert audio_token_id(llm.model.config) not in llm.before + llm.after


def test_a_template_in_the_chat_template_is_its_own_prompt(llm):
    if llm.processor is None:
        pytest.skip(WITHOUT_PROCESSOR[llm.model.config.model_type])
    if family_of(llm.model.config).request in (chat, tokenizers_chat):
        ours = with_template(llm, f"<chat><speech>{INSTRUCTION}")
        assert (ours.before, ours.after) == (llm.before, llm.after)
    try:
        learned = LearnedPrompt(llm, "<chat>play <speech><p:the song>", "tokens")
    except ModelError as error:
        assert "no chat template that takes audio" in str(error)
        assert llm.model.config.model_type in WITHOUT_CHAT
        return
    assert llm.model.config.model_type not in WITHOUT_CHAT
    before, after = learned.rows(llm)
    song = llm.embed(llm.tokenizer.encode("the song", add_special_tokens=False))
    assert len(before) > 1 and any(torch.equal(after[i : i + len(song)], song) for i in range(len(after)))


def test_what_hears_and_what_writes_can_be_trained_too(llm, tmp_path):
    if llm.processor is None:
        pytest.skip(WITHOUT_PROCESSOR[llm.model.config.model_type])
    kind, there = llm.model.config.model_type, []
    for part in ("encoder", "projector"):
        if (kind, part) in WITHOUT_PART:
            with pytest.raises(ModelError, match=f"has no {part} of its own"):
                audio_parameters(llm.model, part)
        else:
            there.append(part)
    if kind == "vibevoice_asr":
        with pytest.raises(ModelError, match="runs it without a gradient"):
            ready(llm, ["encoder"])
        there.remove("encoder")
    before = {part: [p.detach().clone() for p in audio_parameters(llm.model, part)] for part in there}
    samples = [np.random.default_rng(i).standard_normal(8_000).astype(np.float32) / 10 for i in range(2)]
    pairs = Pairs([llm.target_ids(t) for t in TEXT[:2]], llm.audio_embeddings(samples), samples)
    more = {"folder": tmp_path / "work", "out": tmp_path / "model", "seed": 1, "precision": "fp32", "rank": 2}
    more |= {"steps": 3, "batch_size": 2, "learning_rate": 1e-3, "eval_every": 1, "weights_rate": 1e-2}
    tuned = learn_from_pairs(llm, None, pairs, pairs, parts=[*there, "llm"], **more)
    assert tuned.best_step, tuned.log
    for part in there:
        changed = [not torch.equal(*pair) for pair in zip(before[part], audio_parameters(llm.model, part), strict=True)]
        # One has a second encoder for who speaks, and positions that are held fixed stay as they are.
        assert sum(changed) > len(changed) * (0.4 if kind == "nemo_speechlm" else 0.8), (part, sum(changed))
    again = load_speech_llm(str(tmp_path / "model"), "cpu")
    with torch.no_grad():
        ours, theirs = (m.forward(m.prompt(m.audio_embeddings(samples[:1])[0])[None]) for m in (llm, again))
    close(ours, theirs)


def test_both_stages_and_what_loads_what_they_leave(llm, tmp_path):
    fresh = copy.deepcopy(llm.model)
    rows = llm.prompt(drawn(llm, 6)[0])[None]
    more = {"batch_size": 4, "eval_every": 6, "seed": 1, "precision": "fp32"}
    text = {"train": TEXT, "dev": TEXT[:4], "folder": tmp_path / "one", "out": tmp_path / "soft.safetensors"}
    prompt = {"examples": drawn(llm, 6), "length": 6, "init": "audio", "steps": 12, "learning_rate": 0.03}
    learnt = [r["dev_loss"] for r in learn_prompt(llm, **text, **prompt, **more).log if "dev_loss" in r]
    assert min(learnt[1:]) < learnt[0]
    soft = load_file(tmp_path / "soft.safetensors")["soft_prompt"]
    text |= {"folder": tmp_path / "two", "out": tmp_path / "adapter"}
    decoder = {"name": "it", "pseudo_audio": "soft-prompt", "soft_prompt": soft, "inventory": None, "replayed": None}
    decoder |= {
        "guard": None,
        "noise": 0.0,
        "steps": 6,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "rank": 2,
        "alpha": 4,
    }
    decoder |= {
        "activations": "recomputed",
        "dropout": 0.0,
        "replay": 0.0,
        "anchor": 0.0,
        "patience": 9,
        "guard_tolerance": 1.0,
    }
    tuned = [r["dev_loss"] for r in tune_decoder(llm, **text, **decoder, **more).log if "dev_loss" in r]
    assert min(tuned[1:]) < tuned[0]

    def logits(model) -> torch.Tensor:
        with torch.no_grad():
            return copy_of(llm, model).forward(rows)

    untouched, ours = logits(fresh), logits(llm.model)
    assert not torch.allclose(ours, untouched, atol=1e-3)
    names = [name for name, _ in llm.model.named_parameters() if "lora_" in name]
    decoder_name = next(name for name, m in llm.model.named_modules() if m is llm.model.get_decoder())
    assert names and all(name.startswith(f"{decoder_name}.") for name in names)
    again = adapter.attach(copy_of(llm, copy.deepcopy(fresh)), tmp_path / "adapter")
    assert torch.equal(logits(again.model), ours)
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(fresh), str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(plain.get_base_model()), ours)
    native = copy.deepcopy(fresh)
    native.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(native.eval()), ours)
    close(logits(plain.merge_and_unload()), ours)


def copy_of(llm: SpeechLLM, model) -> SpeechLLM:
    fields = {key: getattr(llm, key) for key in SpeechLLM.__dataclass_fields__}
    return SpeechLLM(**(fields | {"model": model}))


def test_logits_that_are_not_scaled_are_and_others_are_left(made):
    granite = decoder_alone(made("granite_speech"))
    assert granite.scale == 8.0
    forward = granite.model.forward

    def mended(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits / 8.0
        return output

    granite.model.forward = mended
    assert _lost_scaling(granite.model) == 1.0
    assert decoder_alone(made("qwen2_audio")).scale == 1.0


def test_a_lora_that_comes_with_a_base_becomes_part_of_it(made):
    granite = decoder_alone(made("granite_speech"))
    rows = granite.prompt(drawn(granite, 4)[0])[None]
    with torch.no_grad():
        bare = granite.forward(rows)
        layers = ["self_attn.q_proj", "self_attn.v_proj"]
        granite.model.add_adapter(peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
        wanted = granite.forward(rows)
        _merge_own_lora(granite.model)
        close(granite.forward(rows), wanted)
    assert not torch.allclose(bare, wanted, atol=1e-2)
    assert not [name for name, _ in granite.model.named_parameters() if "lora_" in name]
    assert adapter.add_lora(granite, 2, 4, 0.0).peft_config["default"].r == 2


@pytest.mark.parametrize("template", ["<p:3><speech>please", "<p:write><speech><p:2>", "<speech>now <p:what you hear>"])
def test_learnable_tokens_before_around_and_behind_the_slot(llm, template, tmp_path):
    slot = drawn(llm, 4)[0]
    for method in ("tokens", "residual") if "<p:w" in template else ("tokens",):
        prompt = LearnedPrompt(llm, template, method, init="random")
        with torch.no_grad():
            for parameter in prompt.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
            prompt.save(tmp_path / "prompt.safetensors", llm)
            again = learning.load_learned_prompt(tmp_path / "prompt.safetensors", llm)
            ours, theirs = (
                view.forward(view.prompt(slot)[None]) for view in (with_learned(llm, p) for p in (prompt, again))
            )
        assert torch.equal(ours, theirs)
        view = with_learned(llm, prompt)
        rows, mask, labels = view.training_batch([slot], [view.target_ids("play")])
        token_loss(view.forward(rows, mask), labels).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prompt.parameters())
