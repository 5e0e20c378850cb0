import itertools
import json
import math
from pathlib import Path

import pytest
import soundfile
import torch

from adapt.decode.fusion import Fusion
from adapt.decode.joint import RAREST, JointCtc, spelled
from adapt.decode.transcribe import generate, transcribe
from adapt.decode.weights import Weights
from adapt.model.features import read_audio
from adapt.model.load import load_speech_llm
from adapt.text.corpus import Utterance, read_manifest
from adapt.text.normalise import none

UTTERANCES = read_manifest(Path(__file__).parents[2] / "recipes/music/dev.jsonl")[:8]
ALPHABET, PIECES = "ab ", ["▁a", "b", "ab", "▁", "", "▁ba", "</s>"]
END = 6


def prefix_and_whole(posteriors: torch.Tensor, text: str) -> tuple[float, float]:
    """Log probability of all paths of symbols that begin with a text, and of those that say it and nothing else."""
    begun = whole = 0.0
    for path in itertools.product(range(len(ALPHABET) + 1), repeat=len(posteriors)):
        said = "".join(ALPHABET[symbol] for symbol, _ in itertools.groupby(path) if symbol < len(ALPHABET))
        if said.startswith(text):
            chance = math.exp(sum(row[symbol].item() for row, symbol in zip(posteriors, path, strict=True)))
            begun, whole = begun + chance, whole + (said == text) * chance
    return tuple(math.log(x) if x else -math.inf for x in (begun, whole))


def text_of(tokens) -> str:
    text = "".join(PIECES[t] for t in tokens).replace("▁", " ").lstrip()
    return text.replace("  ", " ")


def test_prefixes_have_the_probability_of_all_their_paths():
    torch.manual_seed(0)
    posteriors = [torch.randn(frames, 4).log_softmax(-1) for frames in (6, 4)]
    joint = JointCtc(posteriors, spelled([*PIECES[:-1], ""], ALPHABET), ALPHABET.find(" "), [END], weight=0.5)
    # Two rows an utterance, which change places on the way; (1, 3, 3) writes two spaces, (4, ...) nothing at first.
    rows = [(0, 1, 5), (1, 3, 3), (4, 2, 1), (5, 0, 3)]
    turns = [(0, 1, 2, 3), (1, 0, 2, 3), (1, 0, 3, 2), (0, 1, 3, 2)]
    total, zeros = [0.0] * 4, torch.zeros(4, len(PIECES))
    for length, order in enumerate(turns):
        ids = torch.tensor([rows[i][:length] for i in order], dtype=torch.long).view(4, length)
        more = joint(ids, zeros.clone())
        for place, row in enumerate(order):
            begun, whole = prefix_and_whole(posteriors[row // 2], text_of(rows[row][:length]))
            total[row] += more[place, 0].item()
            if total[row] > RAREST / 4 and begun > -math.inf:
                assert total[row] == pytest.approx(0.5 * begun, abs=1e-5)
                end = (more[place, END] - more[place, 0]).item()
                assert end == pytest.approx(max(0.5 * (whole - begun), RAREST / 2), abs=1e-5)
    assert sum(t > RAREST / 4 for t in total) == 3 and min(total) < RAREST / 4  # "ba a" does not go into four frames
    for row, found in zip(rows, joint.totals(rows).tolist(), strict=True):
        whole = prefix_and_whole(posteriors[rows.index(row) // 2], text_of(row))[1]
        assert found == pytest.approx(max(whole, 10 * RAREST), abs=1e-5)


def test_pieces_are_spelled_as_their_tokenizer_writes_them():
    assert spelled(["Ġa", "B", "Ã¤b", "<0x61>"], ALPHABET).tolist() == [[2, 0], [1, -1], [1, -1], [0, -1]]


@pytest.fixture(scope="module")
def built_in():
    return load_speech_llm("tiny")


def test_beams_are_ranked_by_what_decoder_and_ctc_say(built_in):
    fusion = Fusion(built_in, Weights(ctc=0.3), normalise=none)
    slots, posteriors = built_in.embeddings_and_posteriors([read_audio(u.audio) for u in UTTERANCES])
    prompts = [built_in.prompt(slot) for slot in slots]
    assert all(map(torch.equal, slots, built_in.audio_embeddings([read_audio(u.audio) for u in UTTERANCES])))
    found = generate(built_in, prompts, 4, 60, fusion.processors([None] * len(slots), posteriors), nbest=4)
    for prompt, heard, tokens in zip(prompts, posteriors, found, strict=True):
        judged = fusion.judged([prompt] * 4, tokens, [None] * 4, [heard])
        scores = [h.score(fusion.weights) for h in judged]
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx([(h.model + 0.3 * h.ctc) / (h.tokens + 1) for h in judged])
        assert all(10 * RAREST < h.ctc < 0 for h in judged)


def test_the_more_it_weighs_the_more_of_it_is_heard(built_in, tmp_path):
    heard = []
    for weight in (0.1, 1.0):
        out = tmp_path / f"{weight}.jsonl"
        transcribe(built_in, UTTERANCES, out, ctc_weight=weight, nbest=2)
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert all(row["text"] == row["nbest"][0]["text"] for row in rows)
        heard.append(sum(row["nbest"][0]["ctc"] for row in rows))
    assert heard[0] < heard[1] < 0


def test_a_model_without_ctc_has_no_part_in_it(tiny, noise, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "0.wav", noise[0] / abs(noise[0]).max(), 16_000)
    said = []
    for weight, alphabet in ((0.0, tiny.model.config.alphabet), (3.0, "")):
        monkeypatch.setattr(tiny.model.config, "alphabet", alphabet)
        out = tmp_path / f"{weight}.jsonl"
        transcribe(tiny, [Utterance("u", "", tmp_path / "0.wav", None)], out, ctc_weight=weight, max_new_tokens=6)
        said.append(out.read_text())
    assert said[0] == said[1]
