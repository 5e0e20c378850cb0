"""The parts of fusion put together: processors, scores of hypotheses, and errors."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import SuppressTokensLogitsProcessor

from adapt.decode.beam_search import generate
from adapt.decode.fusion import Fusion
from adapt.decode.internal_lm import InternalLM, sequence_scores
from adapt.decode.joint import JointCtc
from adapt.decode.kenlm import KenlmFusion
from adapt.decode.ngram_fusion import NgramFusion
from adapt.decode.parts import Batch
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.lm import arpa
from adapt.lm import phrases as lm_phrases
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.normalise import basic


def test_hypotheses_score_what_beam_search_ranks_by(tiny, noise, models):
    weights = Weights(lm=4.0, source=0.1, ilm=0.2, boost=0.8, reward=-3.0)
    lexicon = Lexicon("names", "", (Entry("the song"), Entry("Stop it")))
    inputs = {"lm": models.arpa, "source": models.arpa, "boost": lexicon, "ilm": tiny.prompt(torch.empty(0, 32))}
    fusion = Fusion(tiny, weights, inputs, normalise=basic)
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    own, endings = [None, ["louder now"], []], 0
    no_special = SuppressTokensLogitsProcessor(fusion.tokens.special)  # random weights often choose them
    found = generate(tiny, prompts, 4, 20, [*fusion.processors(Batch(own)), no_special], nbest=4)
    for prompt, phrases, tokens in zip(prompts, own, found, strict=True):
        ended = [t for t in tokens if len(t) < 20]  # a hypothesis that was cut off has no end to score
        endings += len(ended)
        if not ended:
            continue
        (hypotheses,) = fusion.score_hypotheses([prompt], [ended], Batch([phrases]))
        scores = [h.score(weights) for h in hypotheses]
        assert scores == sorted(scores, reverse=True), "the scores do not have the order of the beam search"
        model = sequence_scores(tiny, [prompt] * len(ended), ended).tolist()
        assert [h.model for h in hypotheses] == pytest.approx(model), "the decoder's scores"
        for totals in (h.totals for h in hypotheses):
            assert totals["lm"] < 0 and totals["lm"] == totals["source"] and totals["ilm"] < 0, "the LMs' scores"
    assert endings > 4, "the example has hypotheses that end"
    ((louder,),) = fusion.score_hypotheses(prompts[1:2], [[tiny.tokenizer.encode("louder now")]], Batch(own[1:2]))
    assert louder.totals["boost"] == pytest.approx(9 / 16 * (2 + math.log(2)), abs=1e-5), "the utterance's own phrase"


@pytest.mark.parametrize(("listed", "weight"), [(1.0, 1.0), (2.0, 2.0), (0.5, 1.0), (None, 1.0)])
def test_a_phrase_of_lexicon_and_utterance_is_boosted_once(tiny, listed, weight):
    entries = () if listed is None else (Entry("the song", weight=listed),)
    fusion = Fusion(tiny, Weights(boost=1.0), {"boost": Lexicon("names", "", entries)}, normalise=basic)
    tokens, prompt = tiny.tokenizer.encode("the song", add_special_tokens=False), tiny.prompt_without_audio()
    ((found,),) = fusion.score_hypotheses([prompt], [[tokens]], Batch([["the song"]]))
    bonus = weight * 7 / 16 * sum(1 + math.log(d) for d in range(1, len(tokens) + 1))
    assert found.totals["boost"] == pytest.approx(bonus)


def test_a_reward_favours_long_hypotheses(tiny, noise, models):
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    lengths = []
    for reward in (-5.0, 5.0):
        fusion = Fusion(tiny, Weights(reward=reward), {"lm": models.arpa}, normalise=basic)
        no_special = SuppressTokensLogitsProcessor(fusion.tokens.special)
        found = generate(tiny, prompts, 4, 8, [*fusion.processors(Batch([None] * 3)), no_special])
        lengths.append(sum(len(best) for best, *_ in found))
    assert lengths[0] < lengths[1]


def test_a_reward_without_an_lm_or_boosting_is_an_error(tiny):
    with pytest.raises(DataError, match="a reward of tokens alone"):
        Fusion(tiny, Weights(reward=1.0), normalise=basic).processors(Batch([None]))


def test_kenlm_comes_after_the_internal_lm_and_before_ctc(tiny, models, monkeypatch):
    pytest.importorskip("kenlm")
    weights = Weights(lm=0.5, source=0.1, ilm=0.2, ctc=0.3)
    inputs = {"lm": models.arpa, "source": models.arpa.with_name("source.arpa"), "ilm": tiny.prompt_without_audio()}
    inputs["source"].write_bytes(models.arpa.read_bytes())
    monkeypatch.setattr(arpa, "kind", lambda path: "binary" if path == models.arpa else "ids")
    fusion = Fusion(tiny, weights, inputs, normalise=basic)
    posteriors = [torch.zeros(5, len(tiny.model.config.alphabet) + 1)]
    processors = fusion.processors(Batch([None], posteriors))
    assert [type(p) for p in processors] == [NgramFusion, InternalLM, KenlmFusion, JointCtc]
    assert [weight for _, weight in processors[0].terms] == [-0.1], "the source LM is subtracted"
    again = fusion.with_weights(Weights(lm=0.7)).processors(Batch([None]))
    assert [p.weight for p in again] == [0.7] and processors[2].weight == 0.5, "each fusion has its own weight"


def test_a_weight_without_its_input_is_an_error(tiny):
    with pytest.raises(DataError, match="'lm' has a weight, but no input"):
        Fusion(tiny, Weights(lm=0.1), normalise=basic)


def test_phrases_that_cannot_be_written_are_left_out(tiny, caplog):
    lm_phrases._warn.cache_clear()  # another test may have seen the warning
    names = Lexicon("x", "", (Entry("Beyoncé"), Entry("the song")))
    lexicons = (names, Lexicon("x", "", names.entries[1:]))
    both, one = (Fusion(tiny, Weights(boost=0.1), {"boost": lexicon}, normalise=basic) for lexicon in lexicons)
    assert "'Beyoncé'" in caplog.text and caplog.text.count("Beyoncé") == 1
    tokens = [[tiny.tokenizer.encode("the song", add_special_tokens=False)]]
    ((with_it,),), ((without,),) = (
        fusion.score_hypotheses([tiny.prompt_without_audio()], tokens, Batch([None])) for fusion in (both, one)
    )
    assert with_it.totals == without.totals and with_it.totals["boost"] > 0
    with pytest.raises(DataError, match="lexicon x: no entry can be written"):
        Fusion(tiny, Weights(boost=0.1), {"boost": Lexicon("x", "", names.entries[:1])}, normalise=basic)


def test_the_bonus_of_an_utterances_own_phrases_is_known_before_there_is_a_weight(tiny):
    fusion, own = Fusion(tiny, Weights(), normalise=basic), [["Beyoncé", "the song"]]
    tokens = tiny.tokenizer.encode("the song", add_special_tokens=False)
    ((found,),) = fusion.score_hypotheses([tiny.prompt_without_audio()], [[tokens]], Batch(own))
    assert found.totals["boost"] > 0


def test_an_lm_of_another_tokenizer_or_with_a_broken_description_is_an_error(tiny, models):
    description = models.arpa.with_suffix(".json")
    description.write_text('{"vocabulary": "0123"}')
    with pytest.raises(DataError, match="made with another tokenizer"):
        Fusion(tiny, Weights(lm=0.1), {"lm": models.arpa}, normalise=basic)
    description.write_text("{}")
    with pytest.raises(DataError, match="not the JSON that `adapt lm` writes"):
        Fusion(tiny, Weights(lm=0.1), {"lm": models.arpa}, normalise=basic)
