"""Adapters: several on one base, errors, and the plain model that an export writes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import peft
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapt.decode.transcribe import transcribe
from adapt.errors import DataError, ModelError
from adapt.export import export
from adapt.model import adapter
from adapt.model.load import load_speech_llm
from adapt.text.manifest import Utterance, read_manifest
from adapt.text.transcripts import read_hypotheses

from ..session import lora
from .builders.audio import voxtral_realtime
from .families import BUILDERS


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        soundfile.write(tmp_path / f"{i}.wav", rng.standard_normal(8_000 + 900 * i) / 20, 16_000)
    rows = [{"id": str(i), "audio": f"{i}.wav", "text": ""} for i in range(6)]
    rows = [row | ({"domain": d} if d else {}) for row, d in zip(rows, ["bank", "music", None] * 2, strict=True)]
    (tmp_path / "calls.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "calls.jsonl"


def transcripts(llm, utterances, out) -> dict[str, str]:
    transcribe(llm, utterances, out, num_beams=2, batch_size=2, max_new_tokens=8)
    return read_hypotheses(out)


def test_each_utterance_is_transcribed_with_the_adapter_of_its_domain(tiny, recordings, tmp_path):
    base = tiny.name
    folders = {name: lora(base, tmp_path / name, seed) for seed, name in enumerate(("bank", "music"))}
    calls = read_manifest(recordings)
    both = load_speech_llm(base, "cpu")
    for name, folder in folders.items():
        adapter.attach(both, folder, name)
    together = transcripts(both, calls, tmp_path / "both.jsonl")
    alone = {None: transcripts(tiny, calls, tmp_path / "base.jsonl")}
    for name, folder in folders.items():
        alone[name] = transcripts(
            adapter.attach(load_speech_llm(base, "cpu"), folder), calls, tmp_path / f"{name}.jsonl"
        )
    assert together == {u.id: alone[u.domain][u.id] for u in calls}
    assert len({json.dumps(texts) for texts in alone.values()}) == 3
    wrong = [Utterance("x", "", calls[0].audio, domain="bnak")]
    alone = adapter.attach(load_speech_llm(base, "cpu"), folders["bank"], "bank")
    assert (
        transcripts(alone, [u for u in calls if u.domain != "music"], tmp_path / "one.jsonl").items()
        <= together.items()
    )
    with pytest.raises(DataError, match="no adapter for its domain 'bnak'; name one of bank, music"):
        transcripts(both, wrong, tmp_path / "wrong.jsonl")


def test_adapters_of_another_base_and_of_the_llm_alone_are_errors(tiny, tmp_path):
    folder = lora(tiny.name, tmp_path / "it", 0)
    other = tmp_path / "other"
    shutil.copytree(tiny.name, other)
    weights = load_file(other / "model.safetensors")
    save_file({k: v + 1e-3 for k, v in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"made for .* load its own base"):
        adapter.attach(load_speech_llm(str(other), "cpu"), folder)
    for broken in ('{"base": "ti', "[]", '{"base": 1}', '{"base_sha": "0"}', "[" * 100_000):
        (folder / "adapt.json").write_text(broken)
        with pytest.raises(ModelError, match=r"adapt\.json: not as it was written; copy the folder again"):
            adapter.attach(load_speech_llm(tiny.name, "cpu"), folder)
    (folder / "adapt.json").unlink()
    for broken in ("{", "[]", "{}", '{"peft_type": 7}', '{"peft_type": "LORA", "r": "many"}', "[" * 100_000):
        (folder / "adapter_config.json").write_text(broken)
        with pytest.raises(ModelError, match="load its own base"):
            adapter.attach(load_speech_llm(tiny.name, "cpu"), folder)
    inner = load_speech_llm(tiny.name, "cpu").model.language_model
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    peft.get_peft_model(inner, config).save_pretrained(tmp_path / "inner")
    with pytest.raises(ModelError, match=r"a LoRA of the LLM alone.*'language_model\.model\.layers\.0\.self_attn"):
        adapter.attach(load_speech_llm(tiny.name, "cpu"), tmp_path / "inner")


def test_a_base_with_a_lora_of_its_own_is_exported_with_both(recordings, tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    BUILDERS["qwen2_audio"](base)
    model = transformers.Qwen2AudioForConditionalGeneration.from_pretrained(base)
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.save_pretrained(base)  # its adapter lies beside it, as Granite Speech's does
    run.mkdir()
    lora(str(base), run / "adapter", 0, 0.1)
    calls = read_manifest(recordings)
    adapted = transcripts(
        adapter.attach(load_speech_llm(str(base), "cpu"), run / "adapter"), calls, tmp_path / "adapted.jsonl"
    )
    out = export(run, tmp_path / "out")
    assert transcripts(load_speech_llm(str(out), "cpu"), calls, tmp_path / "exported.jsonl") == adapted
    assert not (out / "adapter_config.json").exists()


def test_a_folder_without_a_speech_llm_is_an_error_of_one_line(tiny, tmp_path):
    def refused(match, name=None):
        with pytest.raises(ModelError, match=match) as error:
            load_speech_llm(str(name or tmp_path / "it"), "cpu")
        assert "\n" not in str(error.value)

    refused("base '.*it': no such folder; give the folder of a model")
    (tmp_path / "it").mkdir()
    (tmp_path / "it/notes.txt").write_text("")
    refused("holds no config.json, but notes.txt")
    refused("an adapter, not a model; load the base that it was made for", lora(tiny.name, tmp_path / "adapter", 0))
    small = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "num_hidden_layers": 1}
    transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=9, **small)).save_pretrained(tmp_path / "llama")
    refused(r"a text-only LLM \('llama'\), which takes no audio", tmp_path / "llama")
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    refused("a 'vit' model, which takes no audio", tmp_path / "vit")
    transformers.WhisperConfig().save_pretrained(tmp_path / "whisper")
    refused("not supported: a 'whisper' model, encoder-decoder", tmp_path / "whisper")
    (tmp_path / "it/config.json").write_text("{}")
    refused("its config.json names no model type")
    voxtral_realtime(tmp_path / "realtime")
    refused("adds audio to its text embeddings", tmp_path / "realtime")
    BUILDERS["qwen2_audio"](tmp_path / "qwen")
    (tmp_path / "qwen/processor_config.json").unlink()
    refused("processor", tmp_path / "qwen")


@pytest.mark.parametrize("kind", ["ours", "qwen2_audio", "glmasr"])
def test_an_exported_model_is_a_plain_one_with_the_same_transcripts(tiny, kind, recordings, tmp_path):
    base = tmp_path / "base"
    if kind == "ours":
        shutil.copytree(tiny.name, base)
    else:
        BUILDERS[kind](base)
    (base / "LICENSE").write_text("as you like")
    run = tmp_path / "run"
    run.mkdir()
    lora(str(base), run / "adapter", 0, 0.1)
    calls = [u for u in read_manifest(recordings)]
    adapted = transcripts(
        adapter.attach(load_speech_llm(str(base), "cpu"), run / "adapter"), calls, tmp_path / "adapted.jsonl"
    )
    out = export(run, tmp_path / "out")
    assert transcripts(load_speech_llm(str(out), "cpu"), calls, tmp_path / "exported.jsonl") == adapted
    assert not [f.name for f in out.parent.iterdir() if f.name.endswith(".part")]
    assert transcripts(load_speech_llm(str(base), "cpu"), calls, tmp_path / "plain.jsonl") != adapted
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, base))
    assert ours == theirs and (out / "LICENSE").exists()
    assert export(run, tmp_path / "out") == out  # again, over what it wrote itself
    if kind != "ours":  # with no toolkit
        model = getattr(transformers, theirs["architectures"][0]).from_pretrained(out).eval()
        processor = transformers.AutoProcessor.from_pretrained(out)
        inputs = load_speech_llm(str(out), "cpu")
        samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
        from adapt.model.families import Request, family_of

        request = family_of(model.config).request(processor, Request(samples, "en", ""))
        with torch.no_grad():
            plain = model(**request).logits
            seen = inputs.forward(inputs.prompt(inputs.audio_embeddings([samples])[0])[None])
        torch.testing.assert_close(plain, seen, atol=2e-3, rtol=2e-3)
    only = export(run, tmp_path / "only", adapter_only=True)
    assert not (only / "model.safetensors").exists()
    again = peft.PeftModel.from_pretrained(load_speech_llm(str(base), "cpu").model, str(only))
    assert any("lora_" in name for name, _ in again.named_parameters())
    assert "has not been scored" in (out / "README.md").read_text().lower()
    with pytest.raises(DataError, match="holds other files already"):
        export(run, run / "adapter", adapter_only=True)
    assert (run / "adapter" / adapter.WEIGHTS).exists()
    with pytest.raises(DataError, match="holds other files already"):
        export(run, base)
    with pytest.raises(DataError, match="has no adapter"):
        export(base, tmp_path / "none")
