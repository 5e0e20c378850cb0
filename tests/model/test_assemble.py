"""A base of pretrained parts: assembled from folders, and refused if the parts are others."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file

from adapt.errors import ModelError
from adapt.model import assemble, bases
from adapt.model.bases import find_base, fingerprint, has_ctc, transcribes
from adapt.model.features import read_audio
from adapt.model.load import load_speech_llm
from adapt.text.manifest import read_manifest
from tests.model.builders.parts import TEXT, byte_level_tokenizer, tiny_whisper
from tests.session import adapt

ROOT = Path(__file__).parents[2]
RECIPE = """name: made
data: {{train: train.jsonl, dev: train.jsonl}}
encoder: {{start: ./parts/whisper-base, frozen: all, {encoder}, batch_seconds: 4, warmup_steps: 2}}
llm: {{start: ./parts/smollm2-135m, lm_steps: 0, read_steps: 0}}
align: {{prompt: "<|im_start|><speech><|im_end|>", projector: {projector}, projector_size: 16, lora_layers: all,
  rank: 2, steps: 4, batch_seconds: 4, simulated: 0, decoder_from: 0, encoder_from: 0}}
"""
UNITS = "normalised, units: mixed, slots: units, ctc_steps: 4, ctc_seconds: 4, explicit: ctc"
KINDS = {
    "units": {"encoder": "tuned_layers: 1, steps: 4", "projector": UNITS},
    "first-pass": {"encoder": "first_pass: en, steps: 0", "projector": "first-pass"},
}


@pytest.fixture
def parts(tmp_path, manifest) -> Path:
    """A tiny random Whisper and Llama, in the folder `parts`."""
    folder = tmp_path / "parts"
    tiny_whisper(folder / "whisper-base")
    tokenizer = byte_level_tokenizer()
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = transformers.LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **TEXT, **ids)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "smollm2-135m")
    tokenizer.save_pretrained(folder / "smollm2-135m")
    return folder


@pytest.fixture(params=KINDS)
def made(request, parts, tmp_path, monkeypatch) -> Path:
    """The run folder of a base of these parts, of one of KINDS, which is packed as the built-in base `made`."""
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(**KINDS[request.param]))
    done = adapt("base", "align", tmp_path, "-o", tmp_path / "run")
    assert done.exit_code == 0, done.output
    monkeypatch.syspath_prepend(ROOT / "recipes/small")
    for name in ("make", "text", "speech", "voices", "wide_text"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import make

    assets = tmp_path / "assets"
    assets.mkdir()
    make.pack.callback(tmp_path / "run", assets / "made")
    monkeypatch.setattr(bases, "ASSETS", assets)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ADAPT_PARTS", str(parts))
    fingerprint.cache_clear()
    yield tmp_path / "run"
    fingerprint.cache_clear()


def test_a_base_is_assembled_once_from_its_parts_and_is_the_one_that_was_trained(made, tmp_path, noise):
    ours, theirs = load_speech_llm("made", "cpu"), load_speech_llm(str(made / "model"), "cpu")
    assert str(tmp_path) not in (tmp_path / "assets/made/config.json").read_text(), "no folder of the machine"
    assert has_ctc("made") != transcribes("made") and not list((tmp_path / "assets/made").glob("model*")), (
        "the package has no whole model"
    )
    for one, other in zip(ours.audio_embeddings(noise), theirs.audio_embeddings(noise), strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-2)
    state = theirs.model.state_dict()
    for name, weights in ours.model.state_dict().items():
        torch.testing.assert_close(weights, state[name], atol=2e-3, rtol=2e-3)
    assert ours.target_ids("so it is") == theirs.target_ids("so it is")
    shutil.rmtree(tmp_path / "parts")
    assert find_base("made").parent == tmp_path / "cache/adapt-asr", "the second time needs no parts"
    soundfile.write(tmp_path / "a.wav", noise[2], 16_000)
    done = adapt("transcribe", tmp_path / "a.wav", "--base", "made")
    assert done.exit_code == 0, done.output
    for decoder in ("ctc" if has_ctc("made") else "first-pass", "llm"):
        assert adapt("transcribe", tmp_path / "a.wav", "--base", "made", "--decoder", decoder).exit_code == 0


@pytest.mark.parametrize("made", ["first-pass"], indirect=True)
def test_a_base_that_transcribes_is_adapted_with_simulated_transcripts(made, tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"so it is {a} {b}\n" for a in "abcdef" for b in "ghijkl"))
    (tmp_path / "recipe.yaml").write_text(
        """base: made
data: {text: text.txt, test: train.jsonl, source_replay: train.jsonl, dev_lines: 6}
decoder: {steps: 2, batch_size: 4, eval_every: 2}
transcribe: {num_beams: 2, max_new_tokens: 8}
fusion: {lm: 0.1, ilm: 0.1}
"""
    )
    done = adapt("run", tmp_path, "-o", tmp_path / "adapted")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "adapted/adapter/adapt.json").read_text())["pseudo_audio"] == "simulate"
    systems = {row["system"] for row in json.loads((tmp_path / "adapted/scores/metrics.json").read_text())["rows"]}
    assert systems == {
        *(f"{of} + LM + ILM" for of in ("base", "adapted")),
        "first pass + LM",
        "base",
        "first pass",
        "adapted",
    }
    first = json.loads((tmp_path / "adapted/hyps/target.first pass.jsonl").read_text().splitlines()[0])
    (item,) = [item for item in read_manifest(tmp_path / "train.jsonl") if item.id == first["id"]]
    assert [first["text"]] == load_speech_llm("made", "cpu").first_pass([read_audio(item.audio)])
    for option in ([], ["--lexicon", tmp_path / "text.txt"]):
        done = adapt("transcribe", item.audio.path, "--base", "made", "--decoder", "first-pass", *option)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("made", ["units"], indirect=True)
def test_alignment_keeps_the_pretrained_parts_and_lowers_the_loss(made, parts):
    model = load_file(made / "model/model.safetensors")
    whisper = load_file(parts / "whisper-base/model.safetensors")
    ours = {n: model[f"encoder.encoder.{n.removeprefix('model.encoder.')}"] for n in whisper if "model.encoder." in n}
    changed = {n for n, w in ours.items() if not torch.equal(w, whisper[n])}
    assert changed and all("layers.1" in n for n in changed), "Whisper is frozen, but for its last layer"
    llm = load_file(parts / "smollm2-135m/model.safetensors")
    changed = {n for n, w in llm.items() if not torch.equal(w, model[f"language_model.{n}"])}
    assert changed and all("proj" in name for name in changed), (
        "LoRA is merged into the linear layers, exactly elsewhere"
    )
    log = json.loads((made / "model/log.json").read_text())
    assert any("units_wer" in row for row in log) and any("other_loss" in row for row in log)
    assert list((made / "frames").glob("*/frames-0000.safetensors")), "the frames are kept"


@pytest.mark.parametrize("made", ["units"], indirect=True)
def test_parts_that_are_missing_or_others_are_one_line(made, parts, tmp_path, monkeypatch):
    weights = load_file(parts / "smollm2-135m/model.safetensors")
    one = next(iter(weights))
    save_file({**weights, one: weights[one] + 1}, parts / "smollm2-135m/model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"its weights .* are not those that made was trained with; give Huggi"):
        load_speech_llm("made", "cpu")
    (parts / "smollm2-135m").rename(parts / "other")
    with pytest.raises(ModelError, match="holds other, whisper-base, but not smollm2-135m; put HuggingFaceTB/SmolLM2"):
        load_speech_llm("made", "cpu")
    (tmp_path / "recipe.yaml").write_text(f"base: made\nparts: {parts}\ndata: {{text: text.txt}}\n")
    (tmp_path / "text.txt").write_text("".join(f"so it is {n}\n" for n in range(700)))
    monkeypatch.delenv("ADAPT_PARTS")
    done = adapt("decoder", tmp_path, "-o", tmp_path / "adapted")
    assert done.exit_code == 1 and f"the folder of parts, {parts}, holds other, whisper-base" in done.output
    monkeypatch.delenv("ADAPT_PARTS")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("no route")))
    with pytest.raises(ModelError, match="cannot be downloaded from the hub: no route; download it yourself, and set"):
        load_speech_llm("made", "cpu")
    assert not list(assemble.cache_folder(bases.ASSETS / "made", "x").parent.glob("*/*")), "nothing half made is left"
