"""The stage `text`: which sentences train, which are held out, and which copies name other entities."""

from __future__ import annotations

import dataclasses

import pytest

from adapt.errors import DataError
from adapt.stages import plan
from adapt.stages.text import text, training_text

from .conftest import SAID


def test_no_sentence_of_a_set_is_trained_on(new_run):
    text(run := new_run())
    assert sorted(run.lines(plan.LEAKS)) == ["louder please", "play abba"], "sentences of the set are listed as leaks"
    for name in (plan.TRAIN, plan.COPIES, plan.DEV):
        assert not set(run.lines(name)) & set(SAID), f"{name} repeats a sentence of the test set"


def test_each_other_sentence_is_either_trained_on_or_kept_for_development(new_run):
    text(run := new_run())
    train, dev = run.lines(plan.TRAIN), run.lines(plan.DEV)
    assert sorted(train + dev) == ["again", "play queen", "stop queen", "the song", "what is it"]
    assert len(dev) == 1, "data.dev_lines"


def test_copies_name_the_entities_that_the_test_set_does_not_have_in_their_place(new_run):
    text(run := new_run())
    with_entity = [line for line in run.lines(plan.TRAIN) if "queen" in line]
    assert with_entity, "the example"
    assert sorted(run.lines(plan.COPIES)) == sorted(line.replace("queen", "cher") for line in with_entity)
    assert training_text(run) == run.lines(plan.TRAIN) + run.lines(plan.COPIES)


def test_without_a_lexicon_there_are_no_copies(new_run):
    text(run := new_run("data.lexicon="))
    assert run.lines(plan.COPIES) == []
    assert run.reported[0][1] == "4 train, 0 copies with other entities, 1 dev"


def test_a_changed_test_set_redoes_the_stage(new_run, folder):
    run = new_run()
    for _ in range(2):
        text(run)
    (folder / "test.jsonl").write_text('{"id": "9", "audio": "0.wav", "text": "again"}\n')
    run.manifests = type(run.manifests)()  # as a later command reads it
    text(run)
    reasons = [result.reason for result, _ in run.reported]
    assert reasons == ["never run", "unchanged", "recipe/test.jsonl changed"]
    assert run.lines(plan.LEAKS) == ["again"]


def test_text_that_the_base_cannot_write_is_left_out_or_folded_and_reported(new_run, folder, caplog):
    (folder / "text.txt").write_text("play queen\nplay 50 cent\nplay beyoncé\nplay 歌\nstop\n" + "a\nb\nc\nd\ne\n")
    text(run := new_run())
    written = run.lines(plan.TRAIN) + run.lines(plan.DEV)
    assert "stop" in written and not any(set(line) & set("50é歌") for line in written)
    assert "lines cannot be written by the base, which does not know" in caplog.text and "fold" in caplog.text
    text(run := new_run("data.unwritable=fold"))
    assert "play beyonce" in run.lines(plan.TRAIN) + run.lines(plan.DEV)
    (folder / "text.txt").write_text("歌\n歌 歌\n歌 歌 歌\n")
    with pytest.raises(DataError, match=r"text\.txt: 3 of 3 lines cannot be written by the base"):
        text(new_run())


def test_control_tokens_in_text_are_text(new_run, folder, tiny):
    (folder / "text.txt").write_text("</s>\nplay </s>\n<speech> now\nstop <s> it\n" + "a\nb\nc\nd\ne\n")
    text(run := new_run("data.normaliser=none"))
    written = run.lines(plan.TRAIN) + run.lines(plan.DEV)
    assert not any(set(tiny.tokenizer.encode(line)) & set(tiny.tokenizer.all_special_ids) for line in written)


def test_a_longer_text_is_sampled_and_said_to_be(new_run, folder, caplog):
    lines = [f"say {a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    text(run := new_run("data.text_lines=100"))
    drawn = run.lines(plan.TRAIN) + run.lines(plan.DEV)
    assert len(drawn) == 100 and set(drawn) < set(lines)
    assert caplog.messages == ["text: 100 of 512 lines, drawn at random (data.text_lines)"]
    text(again := new_run("data.text_lines=100"))
    text(other := new_run("data.text_lines=100", "seed=2"))
    assert run.lines(plan.TRAIN) == again.lines(plan.TRAIN) != other.lines(plan.TRAIN)
    caplog.clear()
    text(whole := new_run())
    assert sorted(whole.lines(plan.TRAIN) + whole.lines(plan.DEV)) == sorted(lines) and not caplog.messages


def test_the_record_of_a_stage_names_only_what_its_files_do_not_say(load):
    assert plan.text_record(load()) == {}, "runs of earlier versions are not redone"
    name = f"hf://datasets/owner/name@{'0a' * 20}"
    recipe = load(f"data.text={name}", "data.text_column=body", "data.text_lines=9")
    assert plan.text_record(recipe) == {"text_column": "body", "text_lines": 9, "text": name}


def test_the_stage_reads_a_data_set_of_the_hub_and_records_its_commit(new_run, monkeypatch):
    monkeypatch.setattr(plan, "sentences", lambda source, column: iter([f"{column} {letter}" for letter in "abcdefg"]))
    name = "hf://datasets/owner/name@"
    text(run := new_run(f"data.text={name}{'0a' * 20}", "data.text_column=body"))
    assert run.lines(plan.TRAIN)[0].startswith("body ")
    data = dataclasses.replace(run.recipe.data, text=name + "0b" * 20)
    run.recipe = dataclasses.replace(run.recipe, data=data)
    text(run)
    assert [result.reason.partition(":")[0] for result, _ in run.reported] == ["never run", "data.text changed"]
