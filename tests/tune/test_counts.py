"""What tuning counts, and which weights it refuses."""

from __future__ import annotations

import dataclasses

from adapt.text.lexicon import Entry, Lexicon
from adapt.text.manifest import Utterance
from adapt.text.mentions import phrase_index
from adapt.text.normalise import basic
from adapt.tune.counts import REFUSED, DevCounts, judges


def test_twice_the_false_alarms_are_refused():
    base = DevCounts(100, 1000, 50, 100, 1)
    assert dataclasses.replace(base, wrong=30, alarms=1).cost(base) < 2
    assert dataclasses.replace(base, wrong=30, alarms=2).cost(base) > REFUSED
    of_the_source = dataclasses.replace(base, source_alarms=20)
    assert dataclasses.replace(of_the_source, wrong=30, alarms=2).refused(of_the_source)
    assert dataclasses.replace(base, wrong=30, source_alarms=2).refused(base)


def test_general_speech_has_counts_of_its_own_and_its_wer_may_not_rise():
    lexicon = phrase_index(Lexicon("names", "", (Entry("jolene"), Entry("yes"))), basic)
    source = judges([Utterance("s", "play it now")], lexicon, basic, source=True)
    assert source[0]("play jolene now") == DevCounts(0, 0, 0, 0, 0, 1, 3, source_alarms=1)
    base = DevCounts(100, 1000, 50, 100, 1, source_errors=300, source_words=1000)
    better = dataclasses.replace(base, errors=80, wrong=30)
    assert dataclasses.replace(better, source_errors=306).cost(base) < 2
    assert dataclasses.replace(better, source_errors=307).cost(base) > REFUSED
