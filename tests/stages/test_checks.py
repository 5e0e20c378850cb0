"""Fusion that a recipe asks for and cannot have is an error before anything is trained."""

from __future__ import annotations

import pytest

from adapt.errors import DataError, RecipeError
from adapt.stages.checks import check_fusion


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        ({"source": 0.1}, "fusion.source: no text of the source domain"),
        ({"boost": 1.0}, "fusion.boost: no lexicon to boost"),
        ({"reward": 1.0, "ilm": 0.1}, "fusion.reward: alone it has no effect"),
    ],
)
def test_a_weight_without_its_input_is_an_error(new_run, weights, problem):
    with pytest.raises(RecipeError, match=problem):
        check_fusion(new_run("data.lexicon="), [{}, weights])


def test_all_missing_inputs_are_one_error(new_run):
    with pytest.raises(RecipeError) as caught:
        check_fusion(new_run("data.lexicon="), [{"source": 0.1, "lm": 0.2}, {"boost": 1.0}, {"reward": 1.0}])
    keys = [problem.split(": ")[1] for problem in caught.value.problems]
    assert keys == ["fusion.source", "fusion.boost", "fusion.reward"]


def test_names_for_a_prompt_without_room_for_them_are_an_error(new_run, folder):
    (folder / "voxtral").mkdir()
    (folder / "voxtral/config.json").write_text('{"model_type": "voxtral"}')
    settings = ("transcribe.names=both", f"base={folder / 'voxtral'}")
    with pytest.raises(RecipeError, match=r"transcribe.names: the prompt of .*voxtral has no room for names; boost"):
        check_fusion(new_run(*settings), [])
    check_fusion(new_run(*settings, "transcribe.names=boost"), [])


def test_weights_of_zero_and_inputs_that_are_there_are_no_error(new_run, folder):
    check_fusion(new_run("data.lexicon="), [{"source": 0.0, "boost": 0.0, "reward": 0.0}])
    run = new_run("data.source_replay=test.jsonl")
    check_fusion(run, [{"source": 0.1, "boost": 1.0, "reward": 1.0}])


def test_a_lexicon_that_the_tokenizer_cannot_write_is_an_error(new_run, folder, caplog):
    (folder / "lexicon.tsv").write_text("queen\n歌\n")
    check_fusion(new_run(), [{"boost": 1.0}])
    assert "phrases: 1 cannot be written in the decoder's tokens and are not boosted: '歌'" in caplog.text
    (folder / "lexicon.tsv").write_text("歌\n")
    with pytest.raises(DataError, match=r"lexicon.tsv: no entry can be written in the decoder's tokens"):
        check_fusion(new_run(), [{"boost": 1.0}])
    check_fusion(new_run(), [{"lm": 1.0}])  # nothing is boosted
