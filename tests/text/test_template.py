"""Templates: each of llm-asr-prompt's parses to the segments it should, and what is parsed is written back."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adapt.errors import RecipeError
from adapt.text.template import CHAT, LEARNED, SPEECH, TEXT, Segment, parse, read_template, written

# Their ten prompts (conf/*.yaml): `prompt` within "USER: {prompt}\n ASSISTANT:"; None where there is nothing around it.
AROUND = "USER: {prompt}\n ASSISTANT:"
THEIRS = {
    "empty": None,
    "base": "Transcribe speech to text. ",
    "prompt_1": "Transcribe speech to text. <speech>",
    "prompt_2": "Transcribe speech to text. Speech: <speech>.",
    "prompt_3": "Transcribe the following speech to text: <speech>.",
    "prompt_4": "Transcribe accurately speech to text. English speech: <speech>.",
    "prompt_5": "Audio: <speech>.\nTranscribe the preceding audio.",
    "prompt_6": "Audio: <speech>.\nWhat is being said in the preceding audio?",
    "prompt_7": "Transcribe the following audio: <speech>.",
    "prompt_8": "What is being said in the following audio? Audio: <speech>.",
}
PROJECTED = {
    "base_pp": ["<p:USER: Transcribe speech to text. \n ASSISTANT>:"],
    "prompt_1_pp": ["<p:USER: Transcribe speech to text. >", "<p:\n ASSISTANT>:"],
    "prompt_2_pp": ["<p:USER: Transcribe speech to text. Speech: >", "<p:.\n ASSISTANT>:"],
    "prompt_3_pp": ["<p:USER: Transcribe the following speech to text: >", "<p:.\n ASSISTANT>:"],
    "prompt_4_pp": ["<p:USER: Transcribe accurately speech to text. English speech: >", "<p:.\n ASSISTANT>:"],
    "prompt_5_pp": ["<p:USER: Audio: >", "<p:.\nTranscribe the preceding audio.\n ASSISTANT>:"],
    "prompt_6_pp": ["<p:USER: Audio: >", "<p:.\nWhat is being said in the preceding audio?\n ASSISTANT>:"],
    "prompt_7_pp": ["<p:USER: Transcribe the following audio: >", "<p:.\n ASSISTANT>:"],
    "prompt_8_pp": ["<p:USER: What is being said in the following audio? Audio: >", "<p:.\n ASSISTANT>:"],
}


@pytest.mark.parametrize("name", THEIRS)
def test_plain_prompts_of_llm_asr_prompt_are_read(name, tmp_path):
    around = AROUND + " " * (name == "prompt_2")
    config = {"prompt_template": None, "prompt": "<speech>"}
    config = {"prompt_template": around, "prompt": THEIRS[name]} if THEIRS[name] else config
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"dataset_config": config}))
    segments = parse(read_template(f"{name}.yaml", tmp_path))
    if not THEIRS[name]:
        assert segments == [Segment(SPEECH)]
        return
    whole = around.format(prompt=THEIRS[name])
    before, found, after = whole.partition("<speech>")
    if not found:  # in front
        before, after = "", whole
    texts = [Segment(TEXT, before)] if before else []
    assert segments == [*texts, Segment(SPEECH), Segment(TEXT, after)]


@pytest.mark.parametrize("name", PROJECTED)
def test_projected_prompts_of_llm_asr_prompt_are_read(name, tmp_path):
    config = {"dataset_config": {"prompt_template": None, "prompt": "<speech>".join(PROJECTED[name])}}
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config))
    segments = parse(read_template(f"{name}.yaml", tmp_path))
    learned = [Segment(LEARNED, part.removeprefix("<p:").partition(">")[0]) for part in PROJECTED[name]]
    if len(learned) == 1:
        assert segments == [Segment(SPEECH), *learned, Segment(TEXT, ":")]
    else:
        assert segments == [learned[0], Segment(SPEECH), learned[1], Segment(TEXT, ":")]


def test_a_template_is_parsed_and_written_again():
    assert parse("<speech>") == parse("") == [Segment(SPEECH)]
    assert parse("<p:12>") == [Segment(SPEECH), Segment(LEARNED, count=12)]
    assert parse(r"<p:\12>") == [Segment(SPEECH), Segment(LEARNED, "12")]
    chat = r"<p:\<|im_start|\>user\n><speech><|im_end|>"
    assert parse(chat) == [Segment(LEARNED, "<|im_start|>user\n"), Segment(SPEECH), Segment(TEXT, "<|im_end|>")]
    assert parse(r"\<speech> <speech>")[0] == Segment(TEXT, "<speech> ")
    assert parse("<chat>it") == [Segment(CHAT), Segment(SPEECH), Segment(TEXT, "it")]
    assert written(parse("<chat>it <speech>")) == "<chat>it <speech>"
    assert written(parse(r"\<chat>, <chat>")) == r"<speech>\<chat>, \<chat>"
    assert written(parse(r"say \<speech> <p:a> <speech>")) == r"say \<speech> <p:a> <speech>"


@given(st.text("ab<>\\p:1 {n\n", max_size=12), st.text("ab<>\\p:1 \n", min_size=1, max_size=8), st.integers(1, 99))
def test_what_is_written_is_parsed_again(text, learned, count):
    segments = [Segment(TEXT, text)] if text else []
    segments += [Segment(SPEECH), Segment(LEARNED, learned), Segment(LEARNED, count=count)]
    assert parse(written(segments)) == segments


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("ab <speech> <speech>", "column 13: a second <speech>"),
        ("ab <p:cd", "column 4: '<p:' is not closed"),
        ("ab <p:cd <speech>", "column 4: '<p:' is not closed"),
        ("<p:0><speech>", "column 1: no learnable tokens"),
        ("<speech><p:>", "column 9: neither a number nor a text"),
    ],
)
def test_errors_name_the_column(template, problem):
    with pytest.raises(RecipeError, match=problem):
        parse(template)


def test_a_file_that_holds_no_prompt_is_an_error(tmp_path):
    for content, problem in (
        ("a: b", "holds no `prompt`"),
        ("prompt: hi\nprompt_template: there", r"holds no \{prompt\}"),
        ("a: [", "not YAML"),
    ):
        (tmp_path / "it.yaml").write_text(content)
        with pytest.raises(RecipeError, match=problem):
            read_template("it.yaml", tmp_path)
    with pytest.raises(RecipeError, match="no such file"):
        read_template("nowhere.yaml", tmp_path)
