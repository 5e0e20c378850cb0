"""Automata of n-gram models score what KenLM scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from adapt.errors import DataError
from adapt.lm.estimate import estimate, write_arpa
from adapt.lm.ngram import load_ngrams

from .conftest import ARPA


def test_scores_are_those_of_kenlm_over_ten_thousand_contexts(model, sentences):
    kenlm = pytest.importorskip("kenlm")
    theirs, ours = kenlm.Model(str(model)), load_ngrams(model, 1000, ends=[2])
    rng = np.random.default_rng(0)
    # Seen and unseen sentences, with random tokens in some places, some of them unknown.
    texts = [*sentences[:350], *sentences[-350:]]
    texts = [[int(rng.integers(4, 1000)) if rng.random() < 0.1 else t for t in text] for text in texts]
    contexts = 0
    states, there, running = ours.start(len(texts)), [kenlm.State() for _ in texts], list(range(len(texts)))
    for state in there:
        theirs.BeginSentenceWrite(state)
    for column in range(max(map(len, texts))):
        running = [i for i in running if column < len(texts[i])]
        scores, targets = ours.advance(states[running])
        for row, i in enumerate(running):
            token, after = texts[i][column], kenlm.State()
            expected = {t: theirs.BaseScore(there[i], str(t), kenlm.State()) for t in (7, 500, 999)}
            expected[token] = theirs.BaseScore(there[i], str(token), after)
            expected[2] = theirs.BaseScore(there[i], "</s>", kenlm.State())
            for t, log in expected.items():
                assert float(scores[row, t]) == pytest.approx(log * math.log(10), abs=1e-5)
            states[i], there[i] = targets[row, token], after
            contexts += 1
    assert contexts >= 10_000
    whole = [theirs.score(" ".join(map(str, text))) * math.log(10) for text in texts[:50]]
    np.testing.assert_allclose(ours.totals(texts[:50]).tolist(), whole, atol=1e-4)


def test_models_of_other_tools_may_lack_entries(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    path = tmp_path / "a.arpa"
    path.write_text(ARPA.format(4, 5))
    ours, theirs = load_ngrams(path, 8, ends=[0], special=[3]), kenlm.Model(str(path))
    for text in ([4, 5, 5, 5], [5, 4, 5], [6, 4, 5, 5, 4], []):
        log = theirs.score(" ".join(map(str, text))) * math.log(10)
        assert float(ours.totals([text])[0]) == pytest.approx(log, abs=1e-5)
    assert ours.advance(ours.start(1))[0][0, 3] == 0  # special tokens keep their scores
    unigrams = tmp_path / "unigrams.arpa"
    unigrams.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-0.3\t</s>\n-0.4\t4\n-1.2\t<unk>\n\n\\end\\\n")
    alone = load_ngrams(unigrams, 8, ends=[0])
    assert float(alone.totals([[4, 5]])[0]) == pytest.approx(-1.9 * math.log(10), abs=1e-5)
    # The suffix 4 5 is not listed: the next shorter one is backed off to.
    missing = tmp_path / "missing.arpa"
    missing.write_text(
        "\\data\\\nngram 1=4\nngram 2=2\nngram 3=1\n\n"
        "\\1-grams:\n-1\t<unk>\n-0.6\t</s>\n-0.5\t4\t-0.3\n-0.7\t5\t-0.1\n\n"
        "\\2-grams:\n-0.2\t4 4\t-0.4\n-0.3\t5 4\t-0.2\n\n\\3-grams:\n-0.1\t5 4 5\n\n\\end\\\n"
    )
    found = load_ngrams(missing, 8, ends=[0])
    _, after = found.step(found.start(1), torch.tensor([[5]]))
    _, after = found.step(after[:, 0], torch.tensor([[4]]))
    score, after = found.step(after[:, 0], torch.tensor([[5]]))
    assert float(score) == pytest.approx(-0.1 * math.log(10), abs=1e-5)
    assert float(found.step(after[:, 0], torch.tensor([[4]]))[0]) == pytest.approx(-0.3 * math.log(10), abs=1e-5)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path, model):
    path = tmp_path / "x.arpa"
    cases = {
        "": "not an ARPA file",
        "hello": "not an ARPA file",
        ARPA.format("play", "it"): "its words are not token ids",
        ARPA.format(4, 5).replace("\\end\\", ""): r"ends before",
        ARPA.format(4, 5).replace("ngram 2=4", "ngram 2=9"): "do not match the announced 9",
        ARPA.format(4, 5).replace("-0.3\t4 5", "-0.3\t4 x"): "not a number",
        ARPA.format(4, 5).replace("4 5 4", "4 4 4"): "its context is not",
        "mmap lm http://kheafield.com/code format version 5\n": "a binary of KenLM",
    }
    for text, problem in cases.items():
        path.write_text(text)
        with pytest.raises(DataError, match=problem):
            load_ngrams(path, 1000)
    with pytest.raises(DataError, match="no such file"):
        load_ngrams(tmp_path / "none.arpa", 1000)
    with pytest.raises(DataError, match="another tokenizer's vocabulary"):
        load_ngrams(model, 500)


def test_a_model_sums_to_one(tmp_path):
    path = tmp_path / "small.arpa"
    write_arpa(estimate([[0, 1, 2], [0, 2], [1, 1, 1]], 5, 3), path)
    found = load_ngrams(path, 6, ends=[5])
    states = torch.arange(1, len(found.backoff))
    sums = found.advance(states)[0].exp().sum(1)
    # Tokens 3 and 4 were never seen: each has the probability of <unk>, which should count once.
    unknown = found.advance(states)[0][:, 3].exp()
    torch.testing.assert_close(sums - unknown, torch.ones(len(states)), atol=1e-5, rtol=0)
