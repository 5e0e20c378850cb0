"""Estimates against lmplz, automata against KenLM."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from adapt.errors import DataError
from adapt.lm import ngram
from adapt.lm.arpa import kind, read_arpa, to_decimals
from adapt.lm.build import build_tokens, build_words
from adapt.lm.estimate import estimate, write_arpa
from adapt.model.bases import find_base

HERE = Path(__file__).parent
MUSIC = HERE.parents[1] / "recipes/music/text.txt"


@pytest.fixture(scope="module")
def sentences() -> list[list[int]]:
    """The music sentences in the base model's tokens: 223,000. From last to first: see lmplz.py."""
    from transformers import AutoTokenizer

    lines = [line for line in MUSIC.read_text(encoding="utf-8").lower().splitlines() if line.strip()]
    return AutoTokenizer.from_pretrained(find_base("tiny"))(lines[::-1], add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("case", ["2", "3", "4", "5", "3 0 0 1", "4 0 1 2", "5 0 0 1"])
def test_the_same_as_lmplz(sentences, case, tmp_path):
    """`lmplz.json.gz` holds what lmplz made of the same tokens (lmplz.py): sizes, means, some n-grams of each order."""
    theirs = json.loads(gzip.decompress((HERE / "lmplz.json.gz").read_bytes()))[case]
    order, *prune = map(int, case.split())
    write_arpa(estimate(sentences, 1000, order, prune or (0,)), tmp_path / "ours.arpa")
    ours = read_arpa(tmp_path / "ours.arpa")
    assert [len(tokens) for tokens in ours.tokens] == [level["size"] for level in theirs]
    for tokens, logs, backoffs, level in zip(ours.tokens, ours.logs, ours.backoffs, theirs, strict=True):
        rows = {tuple(row): i for i, row in enumerate(tokens.tolist())}
        picked = [rows[tuple(gram)] for gram in level["ngrams"]]
        np.testing.assert_allclose(logs[picked] / math.log(10), level["logs"], atol=1e-5)
        np.testing.assert_allclose(backoffs[picked] / math.log(10), level["backoffs"], atol=1e-5)
        assert np.mean(logs) / math.log(10) == pytest.approx(level["mean_log"], abs=1e-6)
        assert np.mean(backoffs) / math.log(10) == pytest.approx(level["mean_backoff"], abs=1e-6)


@pytest.fixture(scope="module")
def model(sentences, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "tokens.arpa"
    write_arpa(estimate(sentences[:8000], 1000, 4, (0, 0, 1)), path)
    return path


def test_the_same_as_kenlm_over_ten_thousand_contexts(model, sentences):
    kenlm = pytest.importorskip("kenlm")
    theirs, ours = kenlm.Model(str(model)), ngram.load_ngrams(model, 1000, ends=[2])
    rng = np.random.default_rng(0)
    # Sentences that the model has seen, that it has not, and with tokens at random, unknown ones among them.
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


ARPA = """\\data\\
ngram 1=5
ngram 2=4
ngram 3=2

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.5
-0.6\t</s>
-0.5\t{0}\t-0.3
-0.7\t{1}\t-0.1

\\2-grams:
-0.2\t<s> {0}\t-0.4
-0.3\t{0} {1}\t-0.2
-0.25\t{1} {0}\t-0.15
-0.1\t{1} </s>

\\3-grams:
-0.05\t<s> {0} {1}
-0.6\t{0} {1} {0}

\\end\\
"""


def test_what_models_of_others_leave_out(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    path = tmp_path / "a.arpa"
    path.write_text(ARPA.format(4, 5))
    ours, theirs = ngram.load_ngrams(path, 8, ends=[0], special=[3]), kenlm.Model(str(path))
    for text in ([4, 5, 5, 5], [5, 4, 5], [6, 4, 5, 5, 4], []):
        log = theirs.score(" ".join(map(str, text))) * math.log(10)
        assert float(ours.totals([text])[0]) == pytest.approx(log, abs=1e-5)
    assert ours.advance(ours.start(1))[0][0, 3] == 0  # special tokens keep what they have
    unigrams = tmp_path / "unigrams.arpa"
    unigrams.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-0.3\t</s>\n-0.4\t4\n-1.2\t<unk>\n\n\\end\\\n")
    alone = ngram.load_ngrams(unigrams, 8, ends=[0])
    assert float(alone.totals([[4, 5]])[0]) == pytest.approx(-1.9 * math.log(10), abs=1e-5)
    # A suffix that is not listed (4 5 without 5): what is shorter still is backed off to.
    missing = tmp_path / "missing.arpa"
    missing.write_text(
        "\\data\\\nngram 1=4\nngram 2=2\nngram 3=1\n\n"
        "\\1-grams:\n-1\t<unk>\n-0.6\t</s>\n-0.5\t4\t-0.3\n-0.7\t5\t-0.1\n\n"
        "\\2-grams:\n-0.2\t4 4\t-0.4\n-0.3\t5 4\t-0.2\n\n\\3-grams:\n-0.1\t5 4 5\n\n\\end\\\n"
    )
    found = ngram.load_ngrams(missing, 8, ends=[0])
    _, after = found.step(found.start(1), torch.tensor([[5]]))
    _, after = found.step(after[:, 0], torch.tensor([[4]]))
    score, after = found.step(after[:, 0], torch.tensor([[5]]))
    assert float(score) == pytest.approx(-0.1 * math.log(10), abs=1e-5)
    assert float(found.step(after[:, 0], torch.tensor([[4]]))[0]) == pytest.approx(-0.3 * math.log(10), abs=1e-5)


def test_nemos_way_of_writing_ids(tmp_path):
    ids, chars, back = tmp_path / "ids.arpa", tmp_path / "chars.arpa", tmp_path / "back.arpa"
    ids.write_text(ARPA.format(4, 33))
    chars.write_text(ARPA.format(chr(104), chr(133)), encoding="utf-8")  # 133: a line break, to Unicode
    assert (kind(ids), kind(chars)) == ("ids", "nemo")
    to_decimals(chars, back)
    for path in (chars, back):
        for ours, theirs in zip(read_arpa(path).tokens, read_arpa(ids).tokens, strict=True):
            assert np.array_equal(ours, theirs)
    spaced = tmp_path / "spaced.arpa"
    spaced.write_bytes(chars.read_bytes().replace(b"\t", b" "))
    to_decimals(spaced, tmp_path / "unspaced.arpa")
    assert (tmp_path / "unspaced.arpa").read_bytes() == back.read_bytes()
    assert float(ngram.load_ngrams(back, 40).totals([[4, 33]])[0]) == float(
        ngram.load_ngrams(ids, 40).totals([[4, 33]])[0]
    )


def test_files_that_are_none(tmp_path, model):
    path = tmp_path / "x.arpa"
    cases = {
        "": "not an ARPA file",
        "hello": "not an ARPA file",
        ARPA.format("play", "it"): "its words are no token ids",
        ARPA.format(4, 5).replace("\\end\\", ""): r"ends before",
        ARPA.format(4, 5).replace("ngram 2=4", "ngram 2=9"): "not the 9 that it announces",
        ARPA.format(4, 5).replace("-0.3\t4 5", "-0.3\t4 x"): "no number",
        ARPA.format(4, 5).replace("4 5 4", "4 4 4"): "its context is not",
        "mmap lm http://kheafield.com/code format version 5\n": "a binary of KenLM",
    }
    for text, told in cases.items():
        path.write_text(text)
        with pytest.raises(DataError, match=told):
            ngram.load_ngrams(path, 1000)
    with pytest.raises(DataError, match="no such file"):
        ngram.load_ngrams(tmp_path / "none.arpa", 1000)
    with pytest.raises(DataError, match="another tokenizer's"):
        ngram.load_ngrams(model, 500)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (([], 10), "no token"),
        (([[]], 10), "no token"),
        (([[10]], 10), "outside the vocabulary"),
        (([[1]], 10, 7), "not in 1 to 6"),
        (([[1]], 10, 3, (1, 0)), "falls"),
    ],
)
def test_what_cannot_be_estimated(arguments, told):
    with pytest.raises(DataError, match=told):
        estimate(*arguments)


def test_a_model_sums_to_one(tmp_path):
    path = tmp_path / "small.arpa"
    write_arpa(estimate([[0, 1, 2], [0, 2], [1, 1, 1]], 5, 3), path)
    found = ngram.load_ngrams(path, 6, ends=[5])
    states = torch.arange(1, len(found.rest))
    sums = found.advance(states)[0].exp().sum(1)
    # Tokens 3 and 4 were never seen: each has the probability of <unk>, which is in the sum once.
    unknown = found.advance(states)[0][:, 3].exp()
    torch.testing.assert_close(sums - unknown, torch.ones(len(states)), atol=1e-5, rtol=0)


def test_large_texts_go_to_lmplz(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.lm.build.LMPLZ_TOKENS", 3)
    fake = tmp_path / "lmplz"
    ours = tmp_path / "given.arpa"
    write_arpa(estimate([[7, 8]], 20, 2), ours)
    fake.write_text(
        f'#!/bin/sh\ncat > {tmp_path}/read\necho "$@" > {tmp_path}/args\n'
        f'while [ "$1" != --arpa ]; do shift; done\ncp {ours} $2\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    build_tokens(["play the song"] * 3, ["play it"], tiny.tokenizer, 60, 2, (0, 0, 1), tmp_path / "lm/tokens.arpa")
    ids = " ".join(map(str, tiny.tokenizer.encode("play the song", add_special_tokens=False)))
    assert (tmp_path / "read").read_text() == f"{ids}\n" * 3
    assert "-o 2 --discount_fallback" in (tmp_path / "args").read_text()
    assert "--prune" not in (tmp_path / "args").read_text()
    fake.write_text("#!/bin/sh\ncat > /dev/null\necho out of memory >&2\nexit 3\n")
    with pytest.raises(DataError, match="lmplz: failed: out of memory"):
        build_tokens(["play the song"] * 3, ["play it"], tiny.tokenizer, 60, 2, (0, 0), tmp_path / "lm/tokens.arpa")
    fake.write_text("#!/bin/sh\nexec <&-\necho no boost >&2\nexit 127\n")  # before it has read anything
    with pytest.raises(DataError, match="lmplz: failed: no boost"):
        build_tokens(["play the song"] * 9_999, ["play"], tiny.tokenizer, 60, 2, (0, 0), tmp_path / "lm/tokens.arpa")


def test_words_for_ctc(tmp_path):
    build_words(["play the song", "play it"], 2, (0,), tmp_path / "lm/words.arpa")
    assert kind(tmp_path / "lm/words.arpa") == "words"
    build_words([], 2, (0,), tmp_path / "again.arpa", given=tmp_path / "lm/words.arpa")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "lm/words.arpa").read_bytes()
    (tmp_path / "packed.arpa.gz").write_bytes(gzip.compress((tmp_path / "again.arpa").read_bytes()))
    build_words([], 2, (0,), tmp_path / "unpacked.arpa", given=tmp_path / "packed.arpa.gz")
    assert (tmp_path / "again.arpa").read_bytes() == (tmp_path / "unpacked.arpa").read_bytes()
    build_words(["我 想 听", "我 听"], 2, (0,), tmp_path / "characters.arpa")
    assert kind(tmp_path / "characters.arpa") == "words"
    (tmp_path / "latin.arpa").write_bytes(ARPA.format("caf\u00e9", "it").encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        kind(tmp_path / "latin.arpa")


@pytest.mark.skipif(not shutil.which("lmplz"), reason="lmplz is not on PATH")
def test_the_stored_figures_are_lmplzs(tmp_path):
    from tests.lm.lmplz import figures

    assert figures(tmp_path) == json.loads(gzip.decompress((HERE / "lmplz.json.gz").read_bytes()))
