"""Whisper's own transcript in the frames of the encoder, and in the slot as tokens of the LLM."""

from __future__ import annotations

import os
import random
from pathlib import Path

import jiwer
import pytest
import torch
import transformers
from torch.nn import functional as F

from adapt.decode import first_pass as decode_first_pass
from adapt.decode import recognise
from adapt.decode.first_pass import fused_tokens
from adapt.decode.internal_lm import sequence_scores
from adapt.decode.names import NamesInPrompt
from adapt.decode.recognise import Search, decoder_recogniser
from adapt.errors import ModelError
from adapt.model import first_pass, first_pass_search, heard_folder, transcribing_whisper
from adapt.model.encoders import pretrained
from adapt.model.features import pad, read_audio
from adapt.model.first_pass import spoken_words
from adapt.model.heard import embeddings_and_heard, heard_after_lists
from adapt.model.heard_folder import HeardFolder
from adapt.model.load import view
from adapt.model.readout import choosing, written_logits
from adapt.model.tokenizer import with_leading_space
from adapt.text.manifest import read_manifest
from adapt.text.normalise import basic
from adapt.train.mishearing import mishearing_inventory, mishearings
from adapt.train.pseudo_audio import PseudoAudioInputs, simulate
from tests.model.builders.parts import byte_level_tokenizer, tiny_whisper, transcribing_llm

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
DEV = Path(__file__).parents[2] / "recipes/music/natural/dev.jsonl"


@pytest.fixture
def whisper(tmp_path) -> Path:
    return tiny_whisper(tmp_path / "w")


@pytest.fixture
def speech_llm(whisper):
    return transcribing_llm(whisper)


def test_the_transcript_is_that_of_whisper_and_does_not_depend_on_the_batch(whisper, noise, monkeypatch):
    monkeypatch.setattr(transcribing_whisper, "SHORTEST", 3_000)  # its own windows of 30 s
    monkeypatch.setattr(transcribing_whisper, "REPEATED", 99)
    encoder = pretrained(str(whisper), ALPHABET, first_pass="en").eval()
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    settings = encoder.encoder.config.first_pass
    inputs, mask = encoder.inputs(*pad(noise))
    with torch.no_grad():
        frames, counts = encoder.frames(inputs, mask)
        alone, _ = encoder.frames(*encoder.inputs(*pad(noise[1:2])))
    torch.testing.assert_close(alone[0], frames[1, : len(alone[0])], atol=1e-4, rtol=1e-4)
    for row, found, count in zip(inputs, frames, counts.tolist(), strict=True):
        most = min(count // 8 + 10, count - 1)
        expected = theirs.generate(
            row[None],
            decoder_input_ids=torch.tensor([settings["prompt"]]),
            max_new_tokens=most,
            num_beams=first_pass_search.BEAMS,
            early_stopping=True,
            begin_suppress_tokens=settings["never_first"],
            suppress_tokens=list(range(settings["end"] + 1, theirs.config.vocab_size)),
        )[0, -most:].tolist()
        states = found[:count].chunk(2, -1)[1].unique_consecutive(dim=0)
        logits = written_logits(states, encoder.encoder.readout(), settings)
        assert logits.argmax(-1)[:-1].tolist() == expected[: len(states) - 1] and len(states) > 2


def test_lists_share_the_encoders_pass_until_recordings_or_weights_change(speech_llm, noise, monkeypatch):
    encoder, passes = speech_llm.model.encoder, []
    whisper = encoder.encoder
    windowed = whisper.encoder.windowed
    monkeypatch.setattr(whisper.encoder, "windowed", lambda *args: passes.append(args) or windowed(*args))
    inputs, mask = encoder.inputs(*pad(noise))
    recorded, plain = mask.sum(-1), [[] for _ in noise]
    first, _ = whisper.frames(inputs, recorded)
    once = len(passes)
    whisper.frames_after(inputs.clone(), recorded, [(0, [5]), (0, [6])], plain)
    assert len(passes) == once
    for changed in ((inputs.flip(0), recorded), (inputs, recorded - 100), (inputs, recorded)):
        before = len(passes)
        whisper.frames(*changed)
        assert len(passes) > before
    with torch.no_grad():
        whisper.encoder.layer_norm.weight *= 2
    again, _ = whisper.frames(inputs, recorded)
    assert not torch.equal(first, again)
    lists = [(0, [5]), (1, [6])]
    listed, _, _ = whisper.frames_after(inputs, recorded, lists, plain)
    with torch.no_grad():
        whisper.decoder.layers[0].encoder_attn.v_proj.weight *= 5
    changed, _, _ = whisper.frames_after(inputs, recorded, lists, plain)
    whisper._encoded = None
    expected, _, _ = whisper.frames_after(inputs, recorded, lists, plain)
    assert torch.equal(changed, expected) and not torch.equal(changed, listed)


def test_whisper_reads_a_list_of_names_before_a_recording(speech_llm, whisper, noise, monkeypatch):
    monkeypatch.setattr(transcribing_whisper, "SHORTEST", 3_000)  # its own windows of 30 s
    monkeypatch.setattr(transcribing_whisper, "REPEATED", 99)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    with torch.no_grad():  # random weights hardly attend to a prompt
        for model in (theirs.model, speech_llm.model.encoder.encoder):
            for layer in model.decoder.layers:
                layer.self_attn.out_proj.weight *= 30
    encoder, settings = speech_llm.model.encoder, speech_llm.model.encoder.encoder.config.first_pass
    inputs, mask = encoder.inputs(*pad(noise))
    lists = list(map(speech_llm.model.projector.list_tokens, [["Mariah", "FBI"], ["FBI"], ["U2"]]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(whisper)
    assert lists == [tokenizer.encode(text, add_special_tokens=False) for text in (" Mariah, FBI.", " FBI.", " U2.")]
    plain = [[5, 6, 7], [8], []]
    frames, counts, evidence = encoder.encoder.frames_after(inputs, mask.sum(-1), [*enumerate(lists)], plain)
    alone, _, same = encoder.encoder.frames_after(inputs[2:], mask[2:].sum(-1), [(0, lists[2])], plain[2:])
    torch.testing.assert_close(alone[0], frames[2, : len(alone[0])], atol=1e-4, rtol=1e-4)
    twice, _, odds = encoder.encoder.frames_after(inputs, mask.sum(-1), [(2, lists[0]), (2, lists[2])], plain)
    torch.testing.assert_close(twice[1, : len(alone[0])], alone[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(odds[1], same[0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(same, evidence[2:], atol=1e-3, rtol=1e-4)

    @torch.no_grad()
    def log_probability(heard, prompt, tokens):
        ids = torch.tensor([[*prompt, *tokens]])
        logits = theirs(heard, decoder_input_ids=ids[:, :-1]).logits[0, len(prompt) - 1 :, : settings["end"] + 1]
        logits[:, settings["never"]] = -torch.inf
        return logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None]).sum()

    readout = encoder.encoder.readout()
    for row, own, other, found, count, odds in zip(inputs, lists, plain, frames, counts, evidence, strict=True):
        before = [settings["previous"], *own, *settings["prompt"]]
        expected = theirs.generate(
            row[None],
            decoder_input_ids=torch.tensor([before]),
            max_new_tokens=(most := min(int(count) // 8 + 10, int(count) - 1)),
            begin_suppress_tokens=settings["never_first"],
            suppress_tokens=list(range(settings["end"] + 1, theirs.config.vocab_size)),
        )[0, -most:].tolist()
        states = found[:count].chunk(2, -1)[1].unique_consecutive(dim=0)
        tokens = [*written_logits(states, readout, settings).argmax(-1).tolist()[:-1], settings["end"]]
        assert tokens[1:-1] == expected[1 : len(tokens) - 1]
        pairs = [(prompt, [*other, settings["end"]]) for prompt in (settings["prompt"], before)]
        ours, theirs_plain = (
            sum(log_probability(row[None], prompt, text or tokens) for prompt, text in rows)
            for rows in ([(prompt, None) for prompt, _ in pairs], pairs)
        )
        torch.testing.assert_close(odds, float(ours - theirs_plain), atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("borne", [True, False])
def test_what_whisper_heard_after_a_list_replaces_the_rest_where_its_names_are_borne(
    speech_llm, noise, monkeypatch, borne
):
    names = NamesInPrompt(speech_llm, None, 2, basic)
    lists = [("Mariah", "FBI"), (), ("U2",)]
    second = [("Carey", "FBI"), ("Mariah", "U2")]
    monkeypatch.setattr(NamesInPrompt, "lists", lambda *_: lists)
    monkeypatch.setattr(NamesInPrompt, "second_lists", lambda *_: second)
    monkeypatch.setattr(NamesInPrompt, "are_borne", lambda *_: borne)
    seen = []
    monkeypatch.setattr(recognise, "fused_tokens", lambda llm, row, *_: seen.append(row) or [])
    recognise.first_pass_recogniser(speech_llm, None, names)(noise, [None] * len(noise))
    _, plain = embeddings_and_heard(speech_llm, noise)

    def best(i):
        tried = [lists[i], *second]
        after = heard_after_lists(speech_llm, noise, plain, [(i, own) for own in tried])
        return max(after, key=lambda one: one.evidence).heard

    expected = [best(0), plain[1], best(2)]
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(plain, expected, strict=True))
    for row, other in zip(seen, expected if borne else plain, strict=True):
        torch.testing.assert_close(row, other)


def test_what_was_heard_is_kept_up_to_a_size(speech_llm, noise, monkeypatch, tmp_path):
    def heard(samples):
        slots, rows = embeddings_and_heard(speech_llm, samples)
        (listed,) = heard_after_lists(speech_llm, samples, rows, [(0, ("Mariah",))])
        return [*slots, *rows, listed.slot, listed.heard, torch.tensor(listed.evidence)]

    expected = heard(noise[:2])
    speech_llm.heard = HeardFolder(tmp_path / "heard", "tiny")
    assert all(map(torch.equal, heard(noise[:2]), expected))
    with monkeypatch.context() as patched:
        patched.setattr(type(speech_llm), "frames", None)
        speech_llm.heard = HeardFolder(tmp_path / "heard", "tiny")
        assert all(map(torch.equal, heard(noise[:2]), expected)), "the same batch in the next command"
        for other in (noise[1::-1], noise[2:]):
            with pytest.raises(TypeError):
                heard(other)
        speech_llm.heard = HeardFolder(tmp_path / "heard", "another base")
        with pytest.raises(TypeError):
            heard(noise[:2])
    files = sorted((tmp_path / "heard").iterdir())
    monkeypatch.setattr(heard_folder, "LIMIT", sum(file.stat().st_size for file in files))
    speech_llm.heard = HeardFolder(tmp_path / "heard", "tiny")
    embeddings_and_heard(speech_llm, noise[2:])
    assert sorted((tmp_path / "heard").iterdir()) == files, "a full folder keeps nothing more"
    speech_llm.heard = HeardFolder(tmp_path / "heard", "another base")
    embeddings_and_heard(speech_llm, noise[2:])
    left = set((tmp_path / "heard").iterdir())
    assert len(left - set(files)) == 1 and set(files) - left, "files of another base give way"
    for file in (tmp_path / "heard").iterdir():
        file.write_bytes(b"broken")
    speech_llm.heard = HeardFolder(tmp_path / "heard", "tiny")
    assert all(map(torch.equal, heard(noise[:2]), expected)), "a broken file counts as none"


def test_names_that_fit_are_listed(speech_llm, monkeypatch):
    projector = speech_llm.model.projector
    monkeypatch.setattr(first_pass, "LISTED", 8)
    letters = [bytes(row).rstrip(b"\0") for row in projector.letters.tolist()]
    assert b"".join(letters[token] for token in projector.list_tokens(["U2", "ab", "Mariah Carey"])) == b" U2, ab."
    assert projector.list_tokens([]) == []


@pytest.mark.parametrize("leading_space", [False, True])
def test_the_slot_holds_the_words_that_whisper_writes(speech_llm, whisper, leading_space):
    tokenizer = with_leading_space(speech_llm.tokenizer) if leading_space else speech_llm.tokenizer
    projector = view("w", speech_llm.model, tokenizer).model.projector
    theirs = transformers.AutoTokenizer.from_pretrained(whisper)
    readout = F.normalize(torch.randn(len(projector.letters), 32, generator=torch.Generator().manual_seed(1)))
    states = 1e3 * readout[theirs.encode(" Mariah quits the FBI.", add_special_tokens=False)]
    frames = torch.cat([torch.ones(len(states) + 1, 32), torch.cat([states, states[:1] * 0])], 1)
    table = speech_llm.model.get_input_embeddings().weight
    expected = tokenizer.encode(" mariah quits the f b i", add_special_tokens=False)
    written, nothing = projector.tokens([frames, frames[-1:]], readout)
    assert projector.ids_of(written) == expected and nothing == []
    torch.testing.assert_close(projector(frames, written, table), table[expected])


def test_tokens_are_written_as_normalised_transcripts_are():
    said = {"Okay, it's a well-known U.S. word.": "okay it's a well known u s word", "R-A-N, STO": "r a n s t o"}
    said |= {"R2D2 and 2Pac paid $1,200 for DVDs.": "r 2 d 2 and 2 pac paid $ 1,200 for d v d s"}
    said |= {" [ Silence ]": "", "(music) no [noise] (one": "no one"}
    for text, words in said.items():
        for tokens in ([text.encode()], [bytes([byte]) for byte in text.encode()]):
            assert " ".join(word.text for word in spoken_words(tokens)) == words
    assert [(word.first, word.last) for word in spoken_words([b" Mar", b"iah", b" caf\xc3", b"\xa9 B"])] == [
        (0, 1), (2, 3), (3, 3)
    ]  # fmt: skip


def test_tokens_that_the_checkpoint_suppresses_are_not_written():
    logits = written_logits(torch.ones(2, 4), torch.ones(41, 4), {"end": 40, "never": [3]})
    assert logits.isinf().nonzero()[:, -1].tolist() == [3, 3] and logits.shape == (2, 41)


def test_simulated_slots_hold_the_errors_of_the_transcripts(speech_llm):
    inventory = mishearing_inventory(mishearings([("so it iz", "so it is")] * 8))
    for inputs, text in (({"inventory": inventory, "misheard": 1e9}, "iz iz iz"), ({}, "is is is")):
        slot = simulate(PseudoAudioInputs(speech_llm, 0.0, **inputs), "is is is", random.Random(1))
        ids = speech_llm.tokenizer.encode(text)
        assert torch.equal(slot, speech_llm.embed(ids))


def test_fusion_in_the_first_pass_chooses_among_the_alternatives(speech_llm, whisper, monkeypatch):
    theirs = transformers.AutoTokenizer.from_pretrained(whisper)
    a, b, c, dot = theirs.convert_tokens_to_ids(["a", "b", "c", "."])
    assert len({a, b, c, dot, theirs.unk_token_id}) == 5
    choices = [[(a, -0.1)], [(b, -0.3), (c, -1.4)], [(c, -0.1), (a, -5.5)]]
    monkeypatch.setattr(speech_llm.model, "first_pass_choices", lambda heard, least: choices)
    monkeypatch.setattr(speech_llm.model, "first_pass_tokens", lambda heard: [[row[0][0] for row in choices]])

    class Prefers:
        """A fusion that scores the text of these tokens by 4, and others by 0."""

        def __init__(self, *tokens):
            self.wanted = speech_llm.model.transcript_ids(tokens)

        def score_texts(self, rows, phrases):
            return [4.0 * (list(row) == self.wanted) for row in rows]

    def chosen(fusion):
        return fused_tokens(speech_llm, None, fusion, None)

    assert chosen(None) == chosen(Prefers(b)) == [a, b, c]
    assert chosen(Prefers(a, c, c)) == [a, c, c], "1.1 nats less likely, for 4 of fusion"
    assert chosen(Prefers(a, b, a)) == [a, b, c], "5.4 nats are more than 4"
    choices[:] = [[(a, -0.1), (dot, -0.2)]]
    assert chosen(Prefers(dot)) == [a], "words stay words"
    choices[:] = [[(dot, -0.1), (a, -0.2)]]
    assert chosen(Prefers(a)) == [dot], "silence stays silence"


def test_choices_are_likely_tokens_and_a_slot_is_that_of_the_tokens_chosen(speech_llm, noise):
    frames, lengths = speech_llm.frames(noise[:1])
    heard = speech_llm.model.projector.spoken_tokens(frames[0, : lengths[0]])
    slots, kept = embeddings_and_heard(speech_llm, noise[:1])
    torch.testing.assert_close(kept[0], heard)
    choices = speech_llm.model.first_pass_choices(heard, -6.0)
    assert len(choices) == len(heard) - 1 and all(1 <= len(row) <= first_pass.CHOICES for row in choices)
    assert all(
        logs == sorted(logs, reverse=True) and min(logs[1:], default=0) >= -6
        for row in choices
        for logs in [[log for _, log in row]]
    )
    written = [row[0][0] for row in choices]
    assert speech_llm.model.first_pass_tokens([heard]) == [written]
    torch.testing.assert_close(speech_llm.model.first_pass_slot(heard, written), slots[0])
    other = [token + 1 for token in written]
    slot = speech_llm.model.first_pass_slot(heard, other)
    torch.testing.assert_close(slot, speech_llm.embed(speech_llm.model.transcript_ids(other)))


def test_what_is_kept_in_float32_follows_the_weights(whisper):
    encoder = pretrained(str(whisper), ALPHABET, first_pass="en").encoder.bfloat16()
    weight, end = encoder.get_input_embeddings().weight, encoder.config.first_pass["end"]
    assert encoder.readout() is encoder.readout()
    with torch.no_grad():
        weight.mul_(2)
    assert encoder.readout().equal(weight[: end + 1].float())
    assert encoder.half().readout().equal(weight[: end + 1].float())


def test_states_tell_the_tokens_that_a_search_chose():
    generator = torch.Generator().manual_seed(1)
    readout, states = torch.randn(40, 16, generator=generator), torch.randn(9, 16, generator=generator)
    settings = {"end": 39, "never": [3]}
    greedy = written_logits(states, readout, settings).argmax(-1)
    tokens = torch.cat([greedy[:5], torch.tensor([7, 0, 39, 12])])
    chosen = choosing(states.bfloat16(), tokens, readout, settings)
    assert chosen[:5].equal(states[:5].bfloat16())
    assert written_logits(chosen, readout, settings).argmax(-1).equal(tokens)
    assert (chosen[5:] - states[5:]).norm(dim=1).max() < states.norm(dim=1).mean()


def test_the_decoder_writes_nothing_for_an_empty_transcript_and_does_not_repeat_itself(speech_llm, noise, monkeypatch):
    slots = [speech_llm.embed([]), speech_llm.embed([5, 6])]
    monkeypatch.setattr(speech_llm.model, "project", lambda frames, lengths: slots)
    monkeypatch.setattr(speech_llm.model, "transcript_ids", lambda tokens: [5, 6])
    rows = decoder_recogniser(speech_llm, Search(num_beams=1, max_new_tokens=40, ctc_weight=0.3))(noise[:2], [()] * 2)
    assert rows[0] == {"text": ""} and rows[1]["text"]
    monkeypatch.setattr(recognise, "generate", lambda llm, prompts, beams, most, processors, count: written(processors))

    def written(processors):
        (processor,) = processors
        scores = processor(torch.tensor([[1, 2, 3, 4, 9, 1, 2, 3]]), torch.zeros(1, 10))
        assert scores[0].isinf().nonzero().flatten().tolist() == [4], "the fourth token in the same order"
        return [[[5]]]

    decoder_recogniser(speech_llm, Search(num_beams=1, max_new_tokens=40, ctc_weight=0.3))(noise[:2], [()] * 2)


@pytest.mark.parametrize("nbest", [1, 3])
def test_the_llm_changes_what_the_encoder_wrote_only_where_it_is_surer(speech_llm, noise, monkeypatch, nbest):
    copy, llms, other = [5, 6, 7], [5, 9, 7], [9]
    first, second, third = map(speech_llm.decode, (copy, llms, other))
    monkeypatch.setattr(speech_llm.model, "transcript_ids", lambda tokens: copy)
    monkeypatch.setattr(recognise, "generate", lambda *_: [[llms, other, copy][:nbest]])
    monkeypatch.setattr(speech_llm.model, "project", lambda frames, lengths: [speech_llm.embed(copy)])
    prompt = speech_llm.prompt(speech_llm.embed(copy))
    scores = sequence_scores(speech_llm, [prompt] * 3, [llms, copy, other]).tolist()
    for copied in (-0.1, 0.1):
        monkeypatch.setattr(decode_first_pass, "COPIED", scores[0] - scores[1] + copied)
        (row,) = decoder_recogniser(speech_llm, Search(4, 9, 0.0, nbest))(noise[:1], [None])
        order = {second: scores[0] / 4, first: (scores[0] + copied) / 4, third: scores[2] / 2}
        ranked = sorted((first, second, third)[: 2 if nbest == 1 else 3], key=lambda text: -order[text])
        assert row["text"] == ranked[0]
        assert nbest == 1 or [h["text"] for h in row["nbest"]] == ranked


def test_a_language_that_whisper_lacks_is_named(whisper):
    with pytest.raises(ModelError, match="'de' is none of its languages, en"):
        pretrained(str(whisper), ALPHABET, first_pass="de")
    byte_level_tokenizer().save_pretrained(whisper)
    with pytest.raises(ModelError, match="its tokenizer is not Whisper's"):
        pretrained(str(whisper), ALPHABET, first_pass="en")


@pytest.mark.slow
@pytest.mark.skipif("ADAPT_PARTS" not in os.environ, reason="needs ADAPT_PARTS, a folder with whisper-base")
def test_the_first_pass_of_the_real_whisper_has_few_errors_on_natural_voices():
    encoder = pretrained(f"{os.environ['ADAPT_PARTS']}/whisper-base", ALPHABET, first_pass="en").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{os.environ['ADAPT_PARTS']}/whisper-base")
    utterances, hypotheses = read_manifest(DEV)[:16], []
    with torch.no_grad():
        frames, counts = encoder.frames(*encoder.inputs(*pad([read_audio(u.audio) for u in utterances])))
        for row, count in zip(frames, counts.tolist(), strict=True):
            states = row[:count].chunk(2, -1)[1].unique_consecutive(dim=0)
            ids = (states @ encoder.encoder.get_input_embeddings().weight.T).argmax(-1)
            hypotheses.append(basic(tokenizer.decode(ids, skip_special_tokens=True)))
    assert jiwer.wer([u.text for u in utterances], hypotheses) < 0.2
