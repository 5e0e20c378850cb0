"""Models that a base recipe cannot start from are refused before any training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import tokenizers
import transformers

from adapt.build.starts import check_shapes, loading, takes_decoder_as_is
from adapt.errors import ModelError, RecipeError
from adapt.model.bases import ASSETS
from adapt.recipe.base import BaseRecipe, Encoder, Llm, SpeechData

RECIPE = BaseRecipe(data=SpeechData(Path("train.jsonl"), Path("dev.jsonl")))


def test_all_faults_of_the_sizes_are_reported_at_once():
    check_shapes(RECIPE)
    wrong = dataclasses.replace(RECIPE, encoder=Encoder(steps=0, heads=5, subsampling=3), llm=Llm(heads=3))
    with pytest.raises(RecipeError) as caught:
        check_shapes(wrong)
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert keys == ["encoder.steps", "encoder.heads", "encoder.subsampling", "llm.heads"]
    started = dataclasses.replace(wrong, encoder=Encoder("tiny", steps=0, heads=5), llm=Llm("tiny", heads=3))
    check_shapes(started)  # the sizes of a start are its own


def test_a_decoder_is_taken_as_it_is_without_steps_on_text():
    for steps, wanted in (((0, 0), True), ((1, 0), False), ((0, 1), False)):
        llm = Llm("tiny", lm_steps=steps[0], read_steps=steps[1])
        assert takes_decoder_as_is(dataclasses.replace(RECIPE, llm=llm)) is wanted
    assert not takes_decoder_as_is(dataclasses.replace(RECIPE, llm=Llm(lm_steps=0, read_steps=0))), "none to take"


@pytest.mark.parametrize("error", [OSError("no such file.\nmore"), ValueError("wrong"), ModelError("no model")])
def test_errors_in_loading_name_the_key(error):
    with (
        pytest.raises(RecipeError, match=r"^llm.start: .*(no such file|wrong|no model)") as caught,
        loading("llm.start", "x"),
    ):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "config", "problem"),
    [
        ("encoder.start", None, "cannot be loaded: Unrecognized model"),
        ("llm.start", None, "cannot be loaded: Unrecognized model"),
        ("llm.start", '{"model_type": "llama"}', "cannot be loaded: "),
        ("encoder.start", (ASSETS / "tiny/config.json").read_text(), "cannot be loaded: Error no file named model"),
        ("encoder.start", '{"model_type": "gpt2"}', "is a 'gpt2' model; give one of parakeet_encoder"),
    ],
)
def test_a_start_that_is_no_model_is_one_line(key, config, problem, adapt, folder, tmp_path):
    (folder / "start").mkdir()
    if config:
        (folder / "start/config.json").write_text(config)
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", f"{key}=./start")
    assert done.exit_code == 1 and not (tmp_path / "out/encoder").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{key}: ") and problem in line


def test_a_decoder_must_be_a_causal_lm_with_a_suitable_tokenizer(adapt, folder, tiny, tmp_path):
    transformers.ViTConfig().save_pretrained(folder / "start")
    tiny.tokenizer.save_pretrained(folder / "start")
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", "llm.start=./start")
    assert done.exit_code == 1 and f"llm.start: '{folder}/start' is a 'vit' model; give a causal LM" in done.stderr
    transformers.CTRLConfig().save_pretrained(folder / "start")
    (folder / "vocab.json").write_text('{"<unk>": 0, "a": 1}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CTRLTokenizer(folder / "vocab.json", folder / "merges.txt").save_pretrained(folder / "start")
    done = adapt("base", folder, "-o", tmp_path / "out", "-s", "llm.start=./start")
    assert done.exit_code == 1 and "does not map tokens to letters; give another LLM" in done.stderr, "no offsets"
    chat = adapt("base", folder, "-o", tmp_path / "out", "-s", "align.prompt=<chat><speech>")
    assert chat.exit_code == 1 and "align.prompt: a new LLM has no chat template" in chat.stderr


def test_a_byte_level_tokenizer_cannot_spell_letters(adapt, folder, tmp_path):
    transformers.GPT2Config(vocab_size=260, n_embd=16, n_layer=1, n_head=2).save_pretrained(folder / "gpt2")
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(["abc"], vocab_size=260, show_progress=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, eos_token="<|end|>", unk_token="<|end|>"
    )
    fast.save_pretrained(folder / "gpt2")
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    rows = [row | {"text": f"a {row['text']}"} for row in rows]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("-o", tmp_path / "out", "-s", "llm.start=./gpt2", "-s", "align.explicit=letters")
    done = adapt("base", folder, *options)
    assert done.exit_code == 1 and "has no single-letter token for ' '" in done.stderr
    assert "give llm.read_steps: 0 and another align.explicit" in done.stderr
    assert not (tmp_path / "out/encoder").exists()


def test_recordings_must_not_be_too_long_for_a_whisper_encoder(adapt, folder, tmp_path):
    transformers.WhisperConfig(d_model=16, encoder_layers=1, max_source_positions=100).save_pretrained(folder / "w")
    options = ("-o", tmp_path / "out", "-s", "encoder.start=./w", "-s", "data.max_seconds=3")
    done = adapt("base", folder, *options)
    assert done.exit_code == 1 and not (tmp_path / "out/encoder").exists()
    assert f"data.max_seconds: 3, but '{folder}/w' takes at most 2; give at most that" in done.stderr


def test_letters_that_a_decoder_lacks_are_added_and_trained_or_an_error(adapt, folder, tmp_path):
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
    size = json.loads((tmp_path / "out/model/config.json").read_text())["text_config"]["vocab_size"]
    assert size == 1001, "the vocabulary has one letter more"
