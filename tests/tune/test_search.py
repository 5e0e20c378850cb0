"""The search for weights, on hypotheses made by hand whose best weights are known."""

from __future__ import annotations

from adapt.decode.hypothesis import Hypothesis
from adapt.decode.weights import Weights
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Entity, Utterance
from adapt.text.mentions import phrase_index
from adapt.text.normalise import basic
from adapt.tune.counts import REFUSED, DevCounts, judges
from adapt.tune.search import search, search_in_turn

LEXICON = phrase_index(Lexicon("names", "", (Entry("jolene"), Entry("yes"))), basic)
UTTERANCES = [Utterance(str(i), "play jolene now", entities=(Entity("jolene", "track"),)) for i in range(5)]
# The model prefers the first, lexicon and LM the second, and too much boosting the third, which is a false alarm.
NBEST = [
    Hypothesis("play joline now", 3, -2.0, {"lm": -9.0}),
    Hypothesis("play jolene now", 3, -3.5, {"lm": -5.0, "boost": 2.0}),
    Hypothesis("play jolene yes", 3, -9.0, {"lm": -6.0, "boost": 5.0}),
]


def decode(weights: Weights) -> list[list[Hypothesis]]:
    return [sorted(NBEST, key=lambda h: -h.score(weights)) for _ in UTTERANCES]


def test_the_search_finds_weights_without_errors_and_false_alarms():
    judge = judges(UTTERANCES, LEXICON, basic)
    assert [judge[0](h.text) for h in NBEST] == [
        DevCounts(1, 3, 1, 1, 0),
        DevCounts(0, 3, 0, 1, 0),
        DevCounts(1, 3, 0, 1, 1),
    ]
    tuned = search(decode, judge, ("lm", "boost"), "base")
    assert tuned.base == DevCounts(5, 15, 5, 5, 0) and tuned.counts == DevCounts(0, 15, 0, 5, 0)
    costs = {(w["lm"], w["boost"]): cost for w, cost in tuned.surface}
    assert costs[0.5, 0.2] == costs[0.05, 0.8] == 0 and costs[0.05, 2.0] > REFUSED and min(map(min, costs)) > 0
    assert decode(Weights(**tuned.weights))[0][0].text == "play jolene now"


def test_false_alarms_in_general_speech_are_refused():
    source = judges([Utterance("s", "play it now")], LEXICON, basic, source=True)

    def decode_both(weights: Weights) -> list[list[Hypothesis]]:
        right = Hypothesis("play it now", 3, -2.0, {"lm": -9.0})
        made_up = Hypothesis("play jolene now", 3, -3.9, {"lm": -9.0, "boost": 2.0})
        return [*decode(weights), sorted([right, made_up], key=lambda h: -h.score(weights))]

    free = search(decode, judges(UTTERANCES, LEXICON, basic), ("boost",), "base")
    guarded = search(decode_both, judges(UTTERANCES, LEXICON, basic) + source, ("boost",), "base")
    assert max(w["boost"] for w, cost in free.surface if cost < REFUSED) == 1.5
    assert max(w["boost"] for w, cost in guarded.surface if cost < REFUSED) == 0.8


def test_the_search_goes_on_while_all_that_it_decoded_is_refused():
    judge = judges([Utterance("t", "play jolene now")], LEXICON, basic)
    judge += judges([Utterance(str(i), "play it now") for i in range(4)], LEXICON, basic, source=True)

    def nbest(weights: Weights, *with_name: float) -> list[Hypothesis]:
        right = Hypothesis("play it now", 3, -2.0)
        found = [right, *(Hypothesis("play jolene now", 3, model, {"boost": 2.0}) for model in with_name)]
        return sorted(found, key=lambda h: -h.score(weights))

    def decode_all(weights: Weights) -> list[list[Hypothesis]]:
        # The false alarm that appears at 0.6 would have won without any weight, if the beam had not lost it.
        found = nbest(weights, -1.9) if weights.boost >= 0.6 else nbest(weights)
        return [nbest(weights, -3.1), found, found, *[nbest(weights, -3.5)] * 2]

    tuned = search(decode_all, judge, ("boost",), "base")
    assert not tuned.counts.refused(tuned.base) and 0 < tuned.weights["boost"] < 0.6


def test_the_search_ends_if_all_of_the_grid_is_refused():
    judge = judges([Utterance("t", "play it now")], LEXICON, basic)
    right, made_up = Hypothesis("play it now", 3, -2.0), Hypothesis("jolene yes", 2, -1.0)
    tuned = search(lambda weights: [[made_up if weights.lm else right]], judge, ("lm",), "base")
    assert tuned.counts.refused(tuned.base) and len(tuned.surface) == 7


def test_weights_of_a_search_without_scores_are_tuned_one_after_the_other():
    judge = judges(UTTERANCES, LEXICON, basic)

    def decode_ctc(weights: Weights) -> list[str]:
        return [NBEST[weights.lm >= 0.4 and weights.reward < 2].text for _ in UTTERANCES]

    grids = {"lm": (0.2, 0.4, 0.6), "reward": (0.0, 1.0, 2.0)}
    tuned = search_in_turn(decode_ctc, judge, grids, "ctc")
    assert tuned.of == "ctc"
    assert (tuned.weights["lm"], tuned.weights["reward"], tuned.counts.errors) == (0.4, 0.0, 0)
