"""`SpeechLLM` equals the family's own way of computing, on tiny models of the real class of every tested family.

All families together take minutes and are marked slow; the default tests run FEW of them.
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
    FAMILIES,
    INSTRUCTION,
    Request,
    by_chat_template,
    by_tokenizer_chat_template,
    family_of,
    sampling_rate,
)
from adapt.model.features import resampled
from adapt.model.learned_prompt import LearnedPrompt, with_learned, with_template
from adapt.model.load import end_tokens, load_speech_llm, merge_own_lora, missing_logits_scaling
from adapt.model.packing import can_cache, can_pack, target_logits
from adapt.model.parts import audio_parameters
from adapt.model.slot import audio_token_id
from adapt.model.speech_llm import SpeechLLM, token_loss
from adapt.recipe.domain import Decoder, Project, Prompt
from adapt.train.common import PairedAudio
from adapt.train.decoder import tune_decoder
from adapt.train.project import learn_from_pairs, trainable_audio_weights
from adapt.train.soft_prompt import learn_soft_prompt

from ..session import EndsAfter
from .families import BUILDERS, WITHOUT_MODEL, WITHOUT_PROCESSOR

FEW = ("qwen2_audio", "granite_speech", "gemma4", "qwen3_asr", "nemotron_h_omni")
WITHOUT_PART = {(kind, part) for kind in ("inkling_mm_model", "phi4_multimodal") for part in ("encoder", "projector")}
WITHOUT_PART = WITHOUT_PART - {("inkling_mm_model", "encoder")} | {("gemma4_unified", "encoder")}
WITHOUT_CHAT = {"voxtral"}
STATEFUL = {"nemotron_h_omni", "nemo_speechlm", "inkling_mm_model"}  # whose layers carry a state from token to token
TEXT = ["play the song", "stop the music", "what is it", "louder please", "play it again"] * 3


def decoder_alone(folder: Path) -> SpeechLLM:
    """The speech LLM of a model whose processor cannot be built here, with a prompt of the tests."""
    config = transformers.AutoConfig.from_pretrained(folder)
    model = getattr(transformers, FAMILIES[config.model_type].cls).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    before, after = (tokenizer.encode(text, add_special_tokens=False) for text in ("please write", "now"))
    ends, scale = end_tokens(model, tokenizer), missing_logits_scaling(model)
    return SpeechLLM(str(folder), model, tokenizer, before, after, ends, 30.0, scale=scale)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of each family, written on the first request."""
    folders = {}

    def folder_of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = tmp_path_factory.mktemp(kind)
            BUILDERS[kind](folders[kind])
        return folders[kind]

    return folder_of


@pytest.fixture(params=[pytest.param(kind, marks=() if kind in FEW else pytest.mark.slow) for kind in BUILDERS])
def llm(request, made) -> SpeechLLM:
    if request.param in WITHOUT_MODEL:
        pytest.skip(WITHOUT_PROCESSOR[request.param])
    transformers.utils.logging.set_verbosity_error()
    folder = made(request.param)
    return decoder_alone(folder) if request.param in WITHOUT_PROCESSOR else load_speech_llm(str(folder), "cpu")


def random_slots(llm: SpeechLLM, *lengths: int) -> list[torch.Tensor]:
    """Slots of random embeddings `[length, hidden]`, one for each length."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, llm.hidden, generator=generator) for n in lengths]


def assert_close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)


def test_text_by_rows_has_the_logits_and_the_loss_of_text_by_ids(llm):
    ids = torch.tensor([llm.target_ids("please write what you hear")])
    with torch.no_grad():
        theirs = llm.model(input_ids=ids, labels=ids)
        ours = llm.forward(llm.rows(ids))
    assert_close(ours, theirs.logits / llm.scale)
    if llm.scale == 1:
        assert_close(token_loss(ours[0, :-1], ids[0, 1:]), theirs.loss)


@pytest.mark.parametrize("trains", [False, True])
def test_texts_that_share_rows_have_the_logits_and_gradients_of_each_text_alone(llm, trains):
    llm.model.requires_grad_(False)
    found, before = [], llm.model.get_decoder().config._attn_implementation
    targets = [llm.target_ids(text) for text in TEXT[:6]]
    for shares in (True, False):
        twice, *others = (slot.requires_grad_() for slot in random_slots(llm, 3, 9, 5))
        slots = [twice, others[0], twice, others[1], twice, None]
        with llm.plain_attention() if trains else nullcontext():
            attends = llm.model.get_decoder().config._attn_implementation
            assert attends == ("eager" if trains and before == "sdpa" else before)
            if shares:
                logits, labels = target_logits(llm, slots, targets)
                assert labels.tolist() == [token for target in targets for token in target]
            else:
                rows = [torch.cat([llm.prompt(s), llm.embed(t)]) for s, t in zip(slots, targets, strict=True)]
                logits = torch.cat(
                    [llm.forward(row[None])[0, -len(t) - 1 : -1] for row, t in zip(rows, targets, strict=True)]
                )
            loss = token_loss(logits, labels)
            loss.backward()
        assert all(slot.grad.norm() > 0 for slot in (twice, *others))
        found.append((loss, logits, *(slot.grad for slot in (twice, *others))))
    assert llm.packs == can_pack(llm) == (llm.model.config.model_type not in STATEFUL) and can_cache(llm)
    assert llm.model.get_decoder().config._attn_implementation == before
    for ours, alone in zip(*found, strict=True):
        assert_close(ours, alone)


def test_greedy_search_takes_the_argmax_and_a_batch_changes_nothing(llm):
    prompts = [llm.prompt(slot) for slot in random_slots(llm, 3, 9)]
    together = [h[0] for h in generate(llm, prompts, 1, 6)]
    assert together == [generate(llm, [prompt], 1, 6)[0][0] for prompt in prompts]
    for prompt, tokens in zip(prompts, together, strict=True):
        best = llm.forward(torch.cat([prompt, llm.embed(tokens)])[None])[0].argmax(-1)
        assert best[len(prompt) - 1 :][: len(tokens)].tolist() == tokens
    stays = generate(llm, prompts, 2, 6, [EndsAfter(llm.ends, [1, 6])])[1]  # and the other leaves
    assert stays == generate(llm, prompts[1:], 2, 6, [EndsAfter(llm.ends, [6])])[0]


def beam_search(llm: SpeechLLM, prompt: torch.Tensor, num_beams: int, length: int, bonus) -> list[int]:
    """Plain beam search. bonus: (tokens so far) -> scores `[vocabulary]` to add."""
    beams, finished = [(0.0, [])], []
    for _ in range(length):
        found = []
        for total, tokens in beams:
            with torch.no_grad():
                logits = llm.forward(torch.cat([prompt, llm.embed(tokens)])[None], keep=1)[0, -1]
            fused = logits.double().log_softmax(-1) + bonus(tokens)
            found += [(total + float(s), [*tokens, t]) for t, s in enumerate(fused)]
        found.sort(key=lambda pair: -pair[0])
        finished += [(total / len(t), t[:-1]) for total, t in found[:num_beams] if t[-1] in llm.ends]
        beams = [pair for pair in found if pair[1][-1] not in llm.ends][:num_beams]
    return max([*finished, *((total / len(t), t) for total, t in beams)], key=lambda pair: pair[0])[1]


def test_fused_beams_equal_a_plain_beam_search(llm):
    pieces = llm.tokenizer.convert_ids_to_tokens(list(range(min(len(llm.tokenizer), llm.vocabulary))))
    begins = np.array(word_beginnings([*pieces, *[""] * (llm.vocabulary - len(pieces))]))
    prompts = [llm.prompt(slot) for slot in random_slots(llm, 3, 7)]
    plain = [h[0] for h in generate(llm, prompts, 3, 5)]
    rest = [i for i in range(20, 60) if i not in plain[0] + plain[1] + llm.ends]
    names = [*itertools.pairwise(rest), *((token,) for token in rest[::2])]
    automaton = boosting_automaton([[Phrase(name, name) for name in names]], begins, ends=llm.ends)

    def bonus(tokens):
        state = automaton.start(1)
        for token in tokens:
            state = automaton.advance(state)[1][:, token]
        return 9.0 * automaton.advance(state)[0][0].double()

    fused = [h[0] for h in generate(llm, prompts, 3, 5, [NgramFusion(automaton, 9.0)])]
    assert fused == [beam_search(llm, prompt, 3, 5, bonus) for prompt in prompts] != plain


@pytest.mark.parametrize("seconds", [0.6, 3.3])
def test_audio_gives_the_logits_of_the_familys_own_forward_pass(llm, seconds):
    if llm.processor is None:
        pytest.skip(WITHOUT_PROCESSOR[llm.model.config.model_type])
    samples = np.random.default_rng(0).standard_normal(int(16_000 * seconds)).astype(np.float32) / 10
    family = family_of(llm.model.config)
    request = Request(resampled(samples, 16_000, sampling_rate(llm.processor)), "en", llm.name)
    inputs = family.request(llm.processor, request)
    with torch.no_grad():
        theirs = llm.model(**inputs, **family.forward_arguments).logits / llm.scale
        ours = llm.forward(llm.prompt(llm.audio_embeddings([samples])[0])[None])
    assert_close(ours, theirs)
    ids = inputs["input_ids"][0].tolist()
    assert audio_token_id(llm.model.config) in ids[len(llm.before) : len(ids) - len(llm.after)]
    assert audio_token_id(llm.model.config) not in llm.before + llm.after


def test_the_chat_template_gives_the_prompt_of_the_processor(llm):
    if llm.processor is None:
        pytest.skip(WITHOUT_PROCESSOR[llm.model.config.model_type])
    if family_of(llm.model.config).request in (by_chat_template, by_tokenizer_chat_template):
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


NAMES = ("Adele", "Ozzy Osbourne")
LISTED = "Adele, Ozzy Osbourne"
# What the documentation of a family gives to its method for transcription, or as the user's text after the audio.
DOCUMENTED = {
    "qwen3_asr": {"prompt": LISTED, "language": "en"},
    "vibevoice_asr": {"prompt": LISTED},
    "fun_asr_nano": {"keywords": [list(NAMES)]},
    "moss_transcribe_diarize": {"keywords": [list(NAMES)]},
    "granite_speech": f"{INSTRUCTION} Keywords: {LISTED}",
    "granite_speech_plus": f"{INSTRUCTION} Keywords: {LISTED}",
}


def test_names_are_where_the_family_has_its_place_for_them(llm):
    kind, (slot,) = llm.model.config.model_type, random_slots(llm, 3)
    if kind == "voxtral" and llm.processor:
        with pytest.raises(ModelError, match="has no room for names"):
            llm.prompt(slot, NAMES)
        return
    rows, ours = llm.rows_of_embeddings(slot), llm.prompt(slot, NAMES)
    if llm.processor is None:
        listed = llm.embed(llm.tokenizer.encode(f"{LISTED}: ", add_special_tokens=False))
        assert torch.equal(ours, torch.cat([llm.embed(llm.before), listed, rows, llm.embed(llm.after)]))
        return
    before, after = llm._ids_with_names(NAMES)
    assert torch.equal(ours, torch.cat([llm.embed(before), rows, llm.embed(after)]))
    assert (before, after) != (llm.before, llm.after)
    if kind in DOCUMENTED:
        rate = sampling_rate(llm.processor)
        audio, arguments = np.zeros(rate, np.float32), DOCUMENTED[kind]
        common = {"return_tensors": "pt", "processor_kwargs": {"audio_kwargs": {"sampling_rate": rate}}}
        if isinstance(arguments, str):
            content = [{"type": "audio", "audio": audio}, {"type": "text", "text": arguments}]
            template = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
            inputs = llm.processor.apply_chat_template([[{"role": "user", "content": content}]], **template, **common)
        else:
            inputs = llm.processor.apply_transcription_request(audio=[audio], **arguments, **common)
        ids = inputs["input_ids"][0].tolist()
        assert (ids[: len(before)], ids[len(ids) - len(after) :]) == (before, after)
    text = llm.tokenizer.decode([*before, *after])
    assert all(name in text for name in NAMES)


def test_encoder_projector_and_decoder_can_be_trained(llm, tmp_path):
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
            trainable_audio_weights(llm, ["encoder"])
        there.remove("encoder")
    before = {part: [p.detach().clone() for p in audio_parameters(llm.model, part)] for part in there}
    samples = [np.random.default_rng(i).standard_normal(8_000).astype(np.float32) / 10 for i in range(2)]
    pairs = PairedAudio([llm.target_ids(t) for t in TEXT[:2]], llm.audio_embeddings(samples), samples)
    common = {"folder": tmp_path / "work", "out": tmp_path / "model", "seed": 1, "precision": "fp32", "rank": 2}
    settings = Project(steps=3, batch_size=2, eval_every=1, weights_rate=1e-2)
    tuned = learn_from_pairs(llm, None, pairs, pairs, settings, parts=[*there, "llm"], **common)
    assert tuned.best_step, tuned.log
    for part in there:
        changed = [not torch.equal(*pair) for pair in zip(before[part], audio_parameters(llm.model, part), strict=True)]
        # One family has a second encoder for who speaks, and fixed positions do not change.
        assert sum(changed) > len(changed) * (0.4 if kind == "nemo_speechlm" else 0.8), (part, sum(changed))
    again = load_speech_llm(str(tmp_path / "model"), "cpu")
    with torch.no_grad():
        ours, theirs = (m.forward(m.prompt(m.audio_embeddings(samples[:1])[0])[None]) for m in (llm, again))
    assert_close(ours, theirs)


def test_both_stages_run_and_plain_peft_and_transformers_load_their_adapter(llm, tmp_path):
    fresh = copy.deepcopy(llm.model)
    rows = llm.prompt(random_slots(llm, 6)[0])[None]
    text, common = {"train": TEXT, "dev": TEXT[:4]}, {"seed": 1, "precision": "fp32"}
    prompt = Prompt(length=6, init="audio", steps=12, batch_size=4, learning_rate=0.03, eval_every=6)
    places = {"folder": tmp_path / "one", "out": tmp_path / "soft.safetensors"}
    log = learn_soft_prompt(llm, **text, settings=prompt, examples=random_slots(llm, 6), **places, **common).log
    learnt = [r["dev_loss"] for r in log if "dev_loss" in r]
    assert min(learnt[1:]) < learnt[0]
    soft = load_file(tmp_path / "soft.safetensors")["soft_prompt"]
    places = {"folder": tmp_path / "two", "out": tmp_path / "adapter", "name": "it"}
    without = {"inventory": None, "spoken": {}, "replayed": None, "guard": None}
    decoder = Decoder(
        pseudo_audio="soft-prompt",
        noise=0.0,
        steps=6,
        batch_size=4,
        learning_rate=0.01,
        warmup_steps=2,
        rank=2,
        alpha=4,
        dropout=0.0,
        replay=0.0,
        anchor=0.0,
        activations="recomputed",
        eval_every=6,
        patience=9,
        guard_tolerance=1.0,
    )
    log = tune_decoder(llm, **text, settings=decoder, soft_prompt=soft, **without, **places, **common).log
    tuned = [r["dev_loss"] for r in log if "dev_loss" in r]
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
    assert_close(logits(plain.merge_and_unload()), ours)


def copy_of(llm: SpeechLLM, model) -> SpeechLLM:
    fields = {key: getattr(llm, key) for key in SpeechLLM.__dataclass_fields__}
    return SpeechLLM(**(fields | {"model": model}))


def test_missing_logits_scaling_is_found_and_applied_scaling_is_not_repeated(made):
    granite = decoder_alone(made("granite_speech"))
    assert granite.scale == 8.0
    forward = granite.model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits / 8.0
        return output

    granite.model.forward = scaled
    assert missing_logits_scaling(granite.model) == 1.0
    assert decoder_alone(made("qwen2_audio")).scale == 1.0


def test_a_lora_that_comes_with_a_base_is_merged_into_it(made):
    granite = decoder_alone(made("granite_speech"))
    rows = granite.prompt(random_slots(granite, 4)[0])[None]
    with torch.no_grad():
        bare = granite.forward(rows)
        layers = ["self_attn.q_proj", "self_attn.v_proj"]
        granite.model.add_adapter(peft.LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
        wanted = granite.forward(rows)
        merge_own_lora(granite.model)
        assert_close(granite.forward(rows), wanted)
    assert not torch.allclose(bare, wanted, atol=1e-2)
    assert not [name for name, _ in granite.model.named_parameters() if "lora_" in name]
    assert adapter.add_lora(granite, 2, 4, 0.0).peft_config["default"].r == 2


@pytest.mark.parametrize("template", ["<p:3><speech>please", "<p:write><speech><p:2>", "<speech>now <p:what you hear>"])
def test_learnable_tokens_before_around_and_after_the_slot(llm, template, tmp_path):
    slot = random_slots(llm, 4)[0]
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
        token_loss(*target_logits(view, [slot], [view.target_ids("play")])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in prompt.parameters())
