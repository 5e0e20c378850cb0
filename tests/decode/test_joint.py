"""CTC beside the decoder: prefix probabilities, and what they change in the search."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import soundfile
import torch

from adapt.decode.beam_search import generate
from adapt.decode.fusion import Fusion
from adapt.decode.joint import RAREST, JointCtc, letters_of_tokens
from adapt.decode.parts import Batch
from adapt.decode.transcribe import transcribe
from adapt.decode.weights import Weights
from adapt.model.features import read_audio
from adapt.model.heard import embeddings_and_heard
from adapt.model.load import load_speech_llm
from adapt.text.clip import Clip
from adapt.text.manifest import Utterance, read_manifest
from adapt.text.normalise import none

UTTERANCES = read_manifest(Path(__file__).parents[2] / "recipes/music/dev.jsonl")[:8]
ALPHABET, PIECES = "ab ", ["▁a", "b", "ab", "▁", "", "▁ba", "</s>"]
END = 6


def prefix_and_whole(posteriors: torch.Tensor, text: str) -> tuple[float, float]:
    """The log probability of all paths whose text starts with `text`, and of those whose text is `text`."""
    started = whole = 0.0
    for path in itertools.product(range(len(ALPHABET) + 1), repeat=len(posteriors)):
        collapsed = "".join(ALPHABET[symbol] for symbol, _ in itertools.groupby(path) if symbol < len(ALPHABET))
        if collapsed.startswith(text):
            probability = math.exp(sum(row[symbol].item() for row, symbol in zip(posteriors, path, strict=True)))
            started, whole = started + probability, whole + (collapsed == text) * probability
    return tuple(math.log(x) if x else -math.inf for x in (started, whole))


def text_of(tokens) -> str:
    text = "".join(PIECES[t] for t in tokens).replace("▁", " ").lstrip()
    return text.replace("  ", " ")


def test_prefixes_have_the_probability_of_all_their_paths():
    torch.manual_seed(0)
    posteriors = [torch.randn(frames, 4).log_softmax(-1) for frames in (6, 4)]
    joint = JointCtc(posteriors, letters_of_tokens([*PIECES[:-1], ""], ALPHABET), ALPHABET.find(" "), [END], weight=0.5)
    # Two rows for each utterance, which are reordered on the way; (1, 3, 3) writes two spaces, (4, ...) starts empty.
    rows = [(0, 1, 5), (1, 3, 3), (4, 2, 1), (5, 0, 3)]
    turns = [(0, 1, 2, 3), (1, 0, 2, 3), (1, 0, 3, 2), (0, 1, 3, 2)]
    total, zeros = [0.0] * 4, torch.zeros(4, len(PIECES))
    for length, order in enumerate(turns):
        ids = torch.tensor([rows[i][:length] for i in order], dtype=torch.long).view(4, length)
        added = joint(ids, zeros.clone())
        for place, row in enumerate(order):
            started, whole = prefix_and_whole(posteriors[row // 2], text_of(rows[row][:length]))
            total[row] += added[place, 0].item()
            if total[row] > RAREST / 4 and started > -math.inf:
                assert total[row] == pytest.approx(0.5 * started, abs=1e-5), "a prefix"
                end = (added[place, END] - added[place, 0]).item()
                assert end == pytest.approx(max(0.5 * (whole - started), RAREST / 2), abs=1e-5), "the end"
    impossible = [t for t in total if t < RAREST / 4]
    assert len(impossible) == 1, '"ba a" does not go into four frames'
    for row, found in zip(rows, joint.totals(rows).tolist(), strict=True):
        whole = prefix_and_whole(posteriors[rows.index(row) // 2], text_of(row))[1]
        assert found == pytest.approx(max(whole, 10 * RAREST), abs=1e-5), "the score of a hypothesis"


def test_letters_of_tokens_of_other_tokenizers():
    assert letters_of_tokens(["Ġa", "B", "Ã¤b", "<0x61>"], ALPHABET).tolist() == [[2, 0], [1, -1], [1, -1], [0, -1]]


@pytest.fixture(scope="module")
def built_in():
    return load_speech_llm("tiny")


def test_beams_are_ranked_by_decoder_and_ctc(built_in):
    fusion = Fusion(built_in, Weights(ctc=0.3), normalise=none)
    slots, posteriors = embeddings_and_heard(built_in, [read_audio(u.audio) for u in UTTERANCES])
    prompts = [built_in.prompt(slot) for slot in slots]
    alone = built_in.audio_embeddings([read_audio(u.audio) for u in UTTERANCES])
    assert all(map(torch.equal, slots, alone)), "posteriors do not change the audio embeddings"
    found = generate(built_in, prompts, 4, 60, fusion.processors(Batch([None] * len(slots), posteriors)), nbest=4)
    for prompt, own, tokens in zip(prompts, posteriors, found, strict=True):
        (hypotheses,) = fusion.score_hypotheses([prompt], [tokens], Batch([None], [own]))
        scores = [h.score(fusion.weights) for h in hypotheses]
        assert scores == sorted(scores, reverse=True), "the scores have the order of the beam search"
        fused = [(h.model + 0.3 * h.totals["ctc"]) / (h.tokens + 1) for h in hypotheses]
        assert scores == pytest.approx(fused), "the formula"
        assert all(10 * RAREST < h.totals["ctc"] < 0 for h in hypotheses), "CTC finds each hypothesis possible"


def test_a_higher_weight_gives_hypotheses_that_ctc_finds_more_probable(built_in, tmp_path):
    totals = []
    for weight in (0.1, 1.0):
        out = tmp_path / f"{weight}.jsonl"
        transcribe(built_in, UTTERANCES, out, ctc_weight=weight, nbest=2)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert all(row["text"] == row["nbest"][0]["text"] for row in rows)
        totals.append(sum(row["nbest"][0]["ctc"] for row in rows))
    assert totals[0] < totals[1] < 0


def test_the_weight_of_ctc_changes_nothing_without_a_ctc_head(tiny, noise, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "0.wav", noise[0] / abs(noise[0]).max(), 16_000)
    files = []
    for weight, alphabet in ((0.0, tiny.model.config.alphabet), (3.0, "")):
        monkeypatch.setattr(tiny.model.config, "alphabet", alphabet)
        out = tmp_path / f"{weight}.jsonl"
        transcribe(tiny, [Utterance("u", "", Clip(tmp_path / "0.wav"))], out, ctc_weight=weight, max_new_tokens=6)
        files.append(out.read_text())
    assert files[0] == files[1]
