"""What is fused into beams and greedy search is what a search written out by hand fuses."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import SuppressTokensLogitsProcessor

from adapt.decode.fusion import Fusion, InternalLM, KenlmFusion, NgramFusion, of_ids, open_kenlm, sequence_scores
from adapt.decode.transcribe import generate
from adapt.decode.weights import Weights
from adapt.errors import DataError
from adapt.lm import ngram
from adapt.lm.build import build_words
from adapt.lm.estimate import estimate, write_arpa
from adapt.lm.phrases import Phrase, boost, word_beginnings
from adapt.text.lexicon import Entry, Lexicon
from adapt.text.normalise import basic

LINES = [
    "play the song",
    "play the music now",
    "stop it",
    "tell me what it is",
    "play it again please",
    "the song is it",
]


@pytest.fixture
def parts(tiny, tmp_path):
    """The language model's file, its automaton, and a lexicon's, over the tiny model's tokens."""
    ids = [tiny.tokenizer.encode(line, add_special_tokens=False) for line in LINES]
    vocabulary = tiny.model.config.get_text_config().vocab_size
    write_arpa(estimate(ids, vocabulary, 3), tmp_path / "tokens.arpa")
    lm = ngram.load_ngrams(tmp_path / "tokens.arpa", vocabulary, ends=[2])
    begins = word_beginnings(tiny.tokenizer.convert_ids_to_tokens(list(range(vocabulary))))
    phrases = [Phrase(tuple(i), tuple(i)) for i in (ids[2], ids[0][1:])]
    return tmp_path / "tokens.arpa", lm, boost([phrases], begins, ends=[2])


def reference(model, prompt, num_beams, length, score) -> list[int]:
    """Beam search written out, one utterance, in float64. score: of (tokens so far) `[vocabulary]`, to add."""
    beams, finished = [(0.0, [])], []
    for _ in range(length):
        found = []
        for total, tokens in beams:
            embeds = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(tokens, dtype=torch.long))])[None]
            logits = model(inputs_embeds=embeds, logits_to_keep=1).logits[0, -1].double().log_softmax(-1)
            fused = logits + score(tokens)
            found += [(total + float(s), [*tokens, t]) for t, s in enumerate(fused)]
        found.sort(key=lambda pair: -pair[0])
        for total, tokens in found[:num_beams]:
            if tokens[-1] == 2:
                finished.append((total / len(tokens), tokens))
        beams = [pair for pair in found if pair[1][-1] != 2][:num_beams]
        if num_beams == 1 and finished:  # greedy search ends at the first end
            beams = []
    finished += [(total / len(tokens), tokens) for total, tokens in beams]
    best = max(finished, key=lambda pair: pair[0])[1]
    return best[: best.index(2)] if 2 in best else best


@pytest.mark.parametrize("num_beams", [1, 4])
def test_fused_beams_equal_a_search_written_out(tiny, noise, parts, num_beams):
    _, lm, phrases = parts
    slots = tiny.audio_embeddings(noise)
    tiny.model.double()
    prompts = [tiny.prompt(slot.double()) for slot in slots]

    def along(automaton, tokens: list[int]) -> torch.Tensor:
        state = automaton.start(1)
        for token in tokens:
            state = automaton.advance(state)[1][:, token]
        return automaton.advance(state)[0][0].double()

    def fused(tokens: list[int]) -> torch.Tensor:
        return 0.5 * along(lm, tokens) + 4.0 * along(phrases, tokens)

    plain = [h[0] for h in generate(tiny, prompts, num_beams, 8)]
    processors = [NgramFusion(lm, 0.5, (phrases, 4.0))]
    ours = [h[0] for h in generate(tiny, prompts, num_beams, 8, processors)]
    again = [h[0] for h in generate(tiny, prompts, num_beams, 8, processors)]  # a processor serves any number of times
    assert ours == again != plain
    assert ours == [reference(tiny.model, p, num_beams, 8, fused) for p in prompts]


def test_the_internal_lm_is_the_decoder_without_audio(tiny, noise, parts):
    slots = tiny.audio_embeddings(noise)
    tiny.model.double()
    prompts = [tiny.prompt(slot.double()) for slot in slots]
    empty = tiny.prompt(torch.empty(0, 32, dtype=torch.double)).double()
    embed = tiny.model.get_input_embeddings()

    def taken(tokens: list[int]) -> torch.Tensor:
        embeds = torch.cat([empty, embed(torch.tensor(tokens, dtype=torch.long))])[None]
        scores = -0.7 * tiny.model(inputs_embeds=embeds).logits[0, -1].log_softmax(-1)
        scores[[0, 1, 3]] = 0
        return scores

    ours = generate(tiny, prompts, 4, 8, [InternalLM(tiny.model, empty, 0.7, special=[0, 1, 3])])
    assert [h[0] for h in ours] == [reference(tiny.model, p, 4, 8, taken) for p in prompts]


def test_kenlm_from_its_own_file_gives_the_same(tiny, noise, parts):
    pytest.importorskip("kenlm")
    path, lm, _ = parts
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    ours = generate(tiny, prompts, 4, 8, [NgramFusion(lm, 0.5)])
    assert ours == generate(tiny, prompts, 4, 8, [KenlmFusion(path, 0.5, ends=[2], top_k=len(lm.root))])
    sequences = [tiny.tokenizer.encode(line, add_special_tokens=False) for line in (LINES[2], "play it", "")]
    torch.testing.assert_close(KenlmFusion(path, 0.5).totals(sequences), lm.totals(sequences), atol=1e-4, rtol=0)
    with pytest.raises(DataError, match="no such file"):
        KenlmFusion("none.arpa", 0.5)
    words = path.with_name("words.arpa")
    assert of_ids(open_kenlm(path))
    for lines in (LINES, [*LINES, "play 5 of a 2024 album"], ["5 \u0432 2024"]):
        build_words(lines, 2, (0,), words)
        assert not of_ids(open_kenlm(words))


def test_states_follow_reordered_rows_and_prompts(parts):
    _, lm, phrases = parts
    rng = torch.Generator().manual_seed(0)
    scores = torch.zeros(6, len(lm.root))
    fusion, fresh = NgramFusion(lm, 0.5, (phrases, 1.0)), NgramFusion(lm, 0.5, (phrases, 1.0), prompt_length=2)
    ids = torch.empty(6, 0, dtype=torch.long)
    for _ in range(7):
        ids = ids[torch.randint(6, (6,), generator=rng)]
        ids = torch.cat([ids, torch.randint(4, len(lm.root), (6, 1), generator=rng)], 1)
        prompted = torch.cat([torch.full((6, 2), 9), ids], 1)
        fresh._tracker.ids = None  # as if it came in the middle
        torch.testing.assert_close(fusion(ids, scores.clone()), fresh(prompted, scores.clone()))


def test_wider_outputs_than_tokens_and_rewards(parts):
    path, lm, _ = parts
    ids, wider = torch.empty(2, 0, dtype=torch.long), torch.zeros(2, len(lm.root) + 5)
    lm = ngram.load_ngrams(path, len(lm.root), ends=[2], special=[0, 1, 3])
    fused = NgramFusion(lm, 0.5, reward=0.25)(ids, wider.clone())
    narrow = NgramFusion(lm, 0.5)(ids, wider[:, :-5].clone())
    assert torch.equal(fused[:, -5:], wider[:, -5:])
    more = (fused[:, :-5] - narrow)[0]
    assert more[[0, 1, 2, 3]].tolist() == pytest.approx([0] * 4) and more[6:].tolist() == pytest.approx(
        [0.25] * len(more[6:])
    )


def test_hypotheses_score_what_beam_search_ranks_by(tiny, noise, parts):
    path, *_ = parts
    weights = Weights(lm=4.0, source=0.1, ilm=0.2, boost=0.8, reward=-3.0)
    lexicon = Lexicon("names", "", (Entry("the song"), Entry("Stop it")))
    common = {"lm": path, "source": path, "lexicon": lexicon, "internal": tiny.prompt(torch.empty(0, 32))}
    fusion = Fusion(tiny, weights, normalise=basic, **common)
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    own, endings = [None, ["louder now"], []], 0
    no_special = SuppressTokensLogitsProcessor(fusion.special)  # weights at random are fond of them
    found = generate(tiny, prompts, 4, 20, [*fusion.processors(own), no_special], nbest=4)
    for prompt, phrases, tokens in zip(prompts, own, found, strict=True):
        ended = [t for t in tokens if len(t) < 20]  # what was cut off has no end to score
        endings += len(ended)
        if not ended:
            continue
        judged = fusion.judged([prompt] * len(ended), ended, [phrases] * len(ended))
        scores = [h.score(weights) for h in judged]
        assert scores == sorted(scores, reverse=True)
        assert [h.model for h in judged] == pytest.approx(sequence_scores(tiny, [prompt] * len(ended), ended).tolist())
        assert all(h.lm < 0 and h.lm == h.source and h.ilm < 0 for h in judged)
    assert endings > 4
    assert fusion.judged(prompts[1:2], [tiny.tokenizer.encode("louder now")], own[1:2])[0].boost == pytest.approx(
        9 / 16 * (2 + math.log(2)), abs=1e-5
    )


@pytest.mark.parametrize(("listed", "weight"), [(1.0, 1.0), (2.0, 2.0), (0.5, 1.0), (None, 1.0)])
def test_what_is_listed_twice_is_boosted_once(tiny, listed, weight):
    entries = () if listed is None else (Entry("the song", weight=listed),)
    fusion = Fusion(tiny, Weights(boost=1.0), lexicon=Lexicon("names", "", entries), normalise=basic)
    said, prompt = tiny.tokenizer.encode("the song", add_special_tokens=False), tiny.prompt_without_audio()
    (judged,) = fusion.judged([prompt], [said], [["the song"]])
    assert judged.boost == pytest.approx(weight * 7 / 16 * sum(1 + math.log(d) for d in range(1, len(said) + 1)))


def test_a_reward_alone_favours_long_hypotheses(tiny, noise, parts):
    path, *_ = parts
    prompts = [tiny.prompt(slot) for slot in tiny.audio_embeddings(noise)]
    lengths = []
    for reward in (-5.0, 5.0):
        fusion = Fusion(tiny, Weights(reward=reward), lm=path, normalise=basic)
        found = generate(
            tiny, prompts, 4, 8, [*fusion.processors([None] * 3), SuppressTokensLogitsProcessor(fusion.special)]
        )
        lengths.append(sum(len(best) for best, *_ in found))
    assert lengths[0] < lengths[1]
    with pytest.raises(DataError, match="a reward of tokens alone"):
        Fusion(tiny, Weights(reward=1.0), normalise=basic).processors([None])


def test_what_is_missing_is_named(tiny, tmp_path, parts):
    path, *_ = parts
    with pytest.raises(DataError, match="weight of 'lm' given"):
        Fusion(tiny, Weights(lm=0.1), normalise=basic)
    with pytest.raises(DataError, match="'Beyoncé' cannot be written"):
        Fusion(tiny, Weights(boost=0.1), lexicon=Lexicon("x", "", (Entry("Beyoncé"),)), normalise=basic)
    own = [["Beyoncé", "the song"]]
    with pytest.raises(DataError, match="'Beyoncé' cannot be written"):
        Fusion(tiny, Weights(boost=0.1), normalise=basic).processors(own)
    tokens = [tiny.tokenizer.encode("the song", add_special_tokens=False)]
    judged = Fusion(tiny, Weights(), normalise=basic).judged([tiny.prompt_without_audio()], tokens, own)
    assert judged[0].boost > 0  # what it would weigh, before there is a weight
    path.with_suffix(".json").write_text('{"vocabulary": "0123"}')
    with pytest.raises(DataError, match="of another tokenizer"):
        Fusion(tiny, Weights(lm=0.1), lm=path, normalise=basic)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(DataError, match="not what `adapt lm` writes"):
        Fusion(tiny, Weights(lm=0.1), lm=path, normalise=basic)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_the_same_on_a_gpu(parts):
    _, lm, phrases = parts
    ids, scores = torch.randint(4, len(lm.root), (8, 5)), torch.randn(8, len(lm.root))
    ours = NgramFusion(lm, 0.5, (phrases, 1.0))(ids.cuda(), scores.cuda())
    torch.testing.assert_close(ours.cpu(), NgramFusion(lm, 0.5, (phrases, 1.0))(ids, scores), atol=1e-5, rtol=0)
