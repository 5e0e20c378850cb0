"""`adapt base` from end to end, on speech of tones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import tokenizers
import torch
import transformers
from click.testing import CliRunner
from safetensors.torch import load_file

from adapt.cli import main
from adapt.model.bases import ASSETS
from adapt.train import fit as fitting

SIZES = """data:
  train: train.jsonl
  dev: train.jsonl
  test: train.jsonl
  text: text.txt
encoder: {hidden_size: 16, heads: 2, layers: 1, channels: 4, steps: 8, batch_seconds: 4, warmup_steps: 2}
llm: {hidden_size: 16, heads: 2, layers: 1, intermediate_size: 32, pieces: 60, lm_steps: 4, read_steps: 4}
align: {prompt: <speech><text>, projector_size: 16, steps: 8, batch_seconds: 4, rank: 2}
transcribe: {num_beams: 2, max_new_tokens: 8}
score: {resamples: 50}
"""


def adapt(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def folder(manifest):
    words = [
        "a",
        "bad",
        "cab",
        "dab",
        "add",
        "dad",
        "cad",
        "bed",
        "fee",
        "jug",
        "him",
        "kit",
        "lot",
        "map",
        "nor",
        "pus",
    ]
    words += ["quiz", "very", "wax", "zoo", "gym"]
    lines = [f"{one} {other}" for one in words for other in words]
    (manifest.parent / "text.txt").write_text("\n".join(lines) + "\n")
    (manifest.parent / "recipe.yaml").write_text(SIZES)
    return manifest.parent


def test_a_recipe_becomes_a_speech_llm_that_the_other_commands_use(folder, tmp_path):
    out = tmp_path / "out"
    done = adapt("base", folder, "-o", out, "--explicit", "cosine")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["set", "utterances", "ctc", "llm"]
    assert [line.split()[0:3] for line in lines[1:4]] == [
        ["test", "20", lines[1].split()[2]],
        *(["language", name, count] for name, count in (("x", "16"), ("y", "4"))),
    ]
    assert lines[4].startswith("mean over languages: ctc") and "monotonicity" in lines[5] and "letters" in lines[5]
    assert len(list((out / "alignment").glob("*.png"))) >= 6 and (out / "report.html").exists()
    metrics = json.loads(adapt("base", folder, "-o", out, "--explicit", "cosine", "--json").stdout)
    assert {row["system"] for row in metrics["rows"]} == {"ctc", "llm"} and set(metrics["means"]) == {"ctc", "llm"}

    again = adapt("base", "align", folder, "-o", out, "--explicit", "ctc", "-s", "align.stack=3")
    assert again.exit_code == 0 and again.stderr.count("as before") == 2  # encoder and read
    assert 'align.explicit changed: "cosine" -> "ctc"' in again.stderr
    reread = adapt("base", "read", folder, "-o", out, "-s", "align.prompt=<speech>")
    assert reread.stderr.count("as before") == 1 and "read" in reread.stderr and "prompt changed" in reread.stderr
    heard = adapt("transcribe", folder / "0.wav", "--base", out / "model", "--num-beams", "1")
    assert heard.exit_code == 0 and heard.stdout.startswith(str(folder / "0.wav"))

    parts = ["-s", f"encoder.start={out}/encoder", "-s", "encoder.steps=0", "-s", f"llm.start={out}/llm"]
    parts += [
        "-s",
        "llm.lm_steps=0",
        "-s",
        "llm.read_steps=0",
        "-s",
        "align.decoder=frozen",
        "-s",
        "align.projector=conv",
    ]
    other = adapt("base", "align", folder, "-o", tmp_path / "other", *parts)
    assert other.exit_code == 0, other.output
    one, two = (load_file(place / "model/model.safetensors") for place in (out, tmp_path / "other"))
    assert all(torch.equal(one[k], two[k]) for k in one if k.startswith("encoder."))
    first = load_file(out / "llm/model.safetensors")
    assert all(torch.equal(first[k], two[f"language_model.{k}"]) for k in first)

    soundfile.write(folder / "0.wav", np.zeros(22_050), 22_050)  # recorded again, under the same name
    anew = adapt("base", "encoder", folder, "-o", out)
    assert anew.exit_code == 0 and "recordings changed" in anew.stderr


def test_the_encoder_of_the_built_in_base_can_be_gone_on_from(folder, tmp_path):
    out = tmp_path / "run"
    done = adapt("base", "encoder", folder, "-o", out, "-s", "encoder.start=tiny", "-s", "encoder.steps=0")
    assert done.exit_code == 0, done.output
    theirs, ours = load_file(ASSETS / "tiny/model.safetensors"), load_file(out / "encoder/model.safetensors")
    assert ours and all(torch.equal(theirs[f"encoder.{k}"].to(ours[k].dtype), ours[k]) for k in ours)


def test_a_speech_llm_made_here_can_be_gone_on_from(folder, tmp_path):
    sizes = ("align.stack=1", "align.projector_size=256", "align.steps=1", "align.projector_rate=1e-12")
    keys = ("encoder.start=tiny", "encoder.steps=0", "llm.start=tiny", "llm.lm_steps=0", "llm.read_steps=0", *sizes)
    more = [part for key in (*keys, "align.decoder=frozen", "align.played=0") for part in ("-s", key)]
    done = adapt("base", "align", folder, "-o", tmp_path / "same", *more)
    assert done.exit_code == 0, done.output
    theirs, ours = (load_file(place / "model.safetensors") for place in (ASSETS / "tiny", tmp_path / "same/model"))
    for name, weights in ours.items():
        assert torch.allclose(theirs[name].to(weights.dtype), weights, atol=1e-6), name
    done = adapt("base", "align", folder, "-o", tmp_path / "other", *more, "-s", "align.stack=2")
    assert done.exit_code == 0, done.output
    ours = load_file(tmp_path / "other/model/model.safetensors")
    assert ours["projector.linear1.weight"].shape[1] == 2 * theirs["projector.linear1.weight"].shape[1]

    done = adapt("base", "align", folder, "-o", tmp_path / "read", *more, "-s", "llm.read_steps=2")
    assert done.exit_code == 0, done.output
    ours = load_file(tmp_path / "read/llm/model.safetensors")
    changed = [name for name, weights in ours.items() if not torch.equal(theirs[f"language_model.{name}"], weights)]
    assert len(changed) == len(ours)
    losses = [row["dev_loss"] for row in json.loads((tmp_path / "read/llm/log.json").read_text()) if "dev_loss" in row]
    model = load_file(tmp_path / "read/model/model.safetensors")
    for name in (name for name in model if name.startswith("projector.")):
        assert torch.allclose(theirs[name].to(model[name].dtype), model[name], atol=1e-6), name
    assert losses[0] < 3  # it knew how to read: one that does not begins with the log of its vocabulary, near 7


def test_a_killed_alignment_goes_on_to_the_same_weights(folder, tmp_path, monkeypatch):
    assert adapt("base", "align", folder, "-o", tmp_path / "whole").exit_code == 0
    assert adapt("base", "read", folder, "-o", tmp_path / "killed").exit_code == 0
    original, steps = fitting._Progress.on_step_end, []

    def kill(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, args, state, control, **kwargs)

    def count(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        return original(self, args, state, control, **kwargs)

    monkeypatch.setattr(fitting._Progress, "on_step_end", kill)
    stopped = adapt("base", "align", folder, "-o", tmp_path / "killed")
    assert stopped.exit_code == 130 and "the same command goes on from here" in stopped.stderr
    monkeypatch.setattr(fitting._Progress, "on_step_end", count)
    assert adapt("base", "align", folder, "-o", tmp_path / "killed").exit_code == 0
    assert steps == [5, 6, 7, 8]
    one, other = (load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "killed"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("-s", "encoder.layer=3"), "unknown key `encoder.layer`; did you mean `encoder.layers`?"),
        (("-s", "encoder.steps=0"), "encoder.steps: 0 without encoder.start; give steps"),
        (("-s", "align.projector=mpl"), "unknown choice 'mpl'; did you mean `mlp`?"),
        (("-s", "align.prompt=a <speech> <speech>"), "column 12: a second <speech>; keep one"),
        (("-s", "llm.pieces=5000"), "llm.vocab_size: a vocabulary of 5000 tokens cannot be learned from the text"),
        (("-s", "data.max_seconds=0.1"), "no recording of at most 0.1 s with a transcript"),
        (("-s", "encoder.start=./nowhere"), "no such folder: './nowhere'"),
        (("-s", "encoder.heads=3"), "encoder.heads: 3 do not divide 16"),
        (("-s", "encoder.subsampling=6"), "encoder.subsampling: 6 is no power of two"),
        (("-s", "llm.heads=16"), "llm.heads: 16, the hidden_size, is no even number for each of 16"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(change, told, folder, tmp_path):
    done = adapt("base", "align", folder, "-o", tmp_path / "out", *change)
    assert done.exit_code == 1 and told in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize(
    ("key", "config", "told"),
    [
        ("encoder.start", None, "cannot be loaded: Unrecognized model"),
        ("llm.start", None, "cannot be loaded: Unrecognized model"),
        ("llm.start", '{"model_type": "llama"}', "cannot be loaded: "),
        ("encoder.start", (ASSETS / "tiny/config.json").read_text(), "cannot be loaded: Error no file named model"),
        ("encoder.start", '{"model_type": "gpt2"}', "is a 'gpt2' model; give one of parakeet_encoder"),
    ],
)
def test_a_start_that_is_no_model_is_one_line_before_anything_is_trained(key, config, told, folder, tmp_path):
    (folder / "start").mkdir()
    if config:
        (folder / "start/config.json").write_text(config)
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", f"{key}=./start")
    assert done.exit_code == 1 and not (tmp_path / "out/encoder").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{key}: ") and told in line


def test_a_start_that_is_no_causal_lm_is_refused(folder, tiny, tmp_path):
    transformers.ViTConfig().save_pretrained(folder / "start")
    tiny.tokenizer.save_pretrained(folder / "start")
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", "llm.start=./start")
    assert done.exit_code == 1 and "is a 'vit' model; give a causal LM" in done.stderr
    transformers.CTRLConfig().save_pretrained(folder / "start")
    (folder / "vocab.json").write_text('{"<unk>": 0, "a": 1}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CTRLTokenizer(folder / "vocab.json", folder / "merges.txt").save_pretrained(folder / "start")
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", "llm.start=./start")
    assert done.exit_code == 1 and "does not tell which letters a token is of; give another LLM" in done.stderr
    chat = adapt("base", folder, "-o", tmp_path / "out", "-s", "align.prompt=<chat><speech>")
    assert chat.exit_code == 1 and "align.prompt: a new LLM has no chat template" in chat.stderr


def test_a_byte_level_llm_cannot_be_spelled_for_and_whisper_hears_half_a_minute(folder, tmp_path):
    transformers.GPT2Config(vocab_size=260, n_embd=16, n_layer=1, n_head=2).save_pretrained(folder / "gpt2")
    bytes_alone = tokenizers.ByteLevelBPETokenizer()
    bytes_alone.train_from_iterator(["abc"], vocab_size=260, show_progress=False)
    spelling = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_alone._tokenizer, eos_token="<|end|>", unk_token="<|end|>"
    )
    spelling.save_pretrained(folder / "gpt2")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [row | {"text": f"a {row['text']}"} for row in rows]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("-o", tmp_path / "out", "-s", "llm.start=./gpt2", "-s")
    done = adapt("base", folder, *options, "align.explicit=letters")
    assert done.exit_code == 1 and "has no piece for ' ' alone" in done.stderr
    assert "give llm.read_steps: 0 and another align.explicit" in done.stderr
    transformers.WhisperConfig(d_model=16, encoder_layers=1, max_source_positions=100).save_pretrained(folder / "w")
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", "encoder.start=./w", "-s", "data.max_seconds=3")
    assert done.exit_code == 1 and "data.max_seconds: 3, of which" in done.stderr and "hears 2" in done.stderr
    assert not (tmp_path / "out/encoder").exists()


def test_letters_that_a_decoder_lacks_are_taught_or_named_before_anything_is_trained(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [row | {"text": row["text"].replace("a", "ä")} for row in rows]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny = ("-o", tmp_path / "out", "-s", "llm.start=tiny", "-s", "llm.lm_steps=0")
    done = adapt("base", folder, *tiny, "-s", "llm.read_steps=0")
    assert done.exit_code == 1 and not (tmp_path / "out/encoder").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("llm.start: the tokenizer of 'tiny' cannot write 'ä', letters of") and "read_steps" in line
    done = adapt("base", "align", folder, *tiny, "-s", "llm.read_steps=1", "-s", "align.steps=1")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/model/config.json").read_text())["text_config"]["vocab_size"] == 1001


def test_an_unknown_stage_is_named(folder):
    done = adapt("base", "allign", folder)
    assert done.exit_code == 2 and "a stage is one of encoder, read, align, test" in done.stderr
    done = adapt("base", "test", folder, "-s", "data.test=")
    assert done.exit_code == 1 and "data.test: missing; name a manifest to score" in done.stderr
