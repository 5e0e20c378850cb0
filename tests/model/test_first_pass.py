"""Whisper's own transcript in the frames of the encoder, and in the slot as tokens of the LLM."""

from __future__ import annotations

import os
import random
from pathlib import Path

import jiwer
import pytest
import torch
import transformers

from adapt.errors import ModelError
from adapt.model import first_pass
from adapt.model.compose import compose
from adapt.model.encoders import pretrained
from adapt.model.features import pad, read_audio
from adapt.model.first_pass import pieces_of
from adapt.model.load import view
from adapt.text.manifest import read_manifest
from adapt.text.normalise import basic
from adapt.train import pseudo_audio
from adapt.train.pseudo_audio import PseudoAudioInputs, simulate, transcript_inventory
from tests.model.builders.parts import TEXT, byte_level_tokenizer, tiny_whisper

ALPHABET = "abcdefghijklmnopqrstuvwxyz' "
DEV = Path(__file__).parents[2] / "recipes/music/natural/dev.jsonl"


@pytest.fixture
def whisper(tmp_path) -> Path:
    return tiny_whisper(tmp_path / "w")


@pytest.fixture
def speech_llm(whisper):
    """A base of a tiny Whisper that transcribes, and a tiny Llama."""
    tokenizer = byte_level_tokenizer()
    torch.manual_seed(1)
    llm = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **TEXT))
    encoder = pretrained(str(whisper), ALPHABET, first_pass="en")
    theirs = transformers.AutoTokenizer.from_pretrained(whisper)
    pieces = pieces_of(theirs, tokenizer, encoder.encoder.config.vocab_size)
    model = compose(encoder, llm, tokenizer, pieces=pieces, projector="first-pass", projector_size=16)
    return view("w", model.eval(), tokenizer)


def test_the_transcript_is_that_of_whisper_and_does_not_depend_on_the_batch(whisper, noise, monkeypatch):
    monkeypatch.setattr(first_pass, "SHORTEST", 3_000)  # its own windows of 30 s
    encoder = pretrained(str(whisper), ALPHABET, first_pass="en").eval()
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    settings = encoder.encoder.config.first_pass
    inputs, mask = encoder.inputs(*pad(noise))
    with torch.no_grad():
        frames, counts = encoder.frames(inputs, mask)
        states = [row[:n].chunk(2, -1)[1].unique_consecutive(dim=0) for row, n in zip(frames, counts, strict=True)]
        alone, _ = encoder.frames(*encoder.inputs(*pad(noise[1:2])))
        expected = theirs.generate(
            inputs,
            decoder_input_ids=torch.tensor([settings["prompt"]] * len(noise)),
            max_new_tokens=9,
            begin_suppress_tokens=settings["never_first"],
            suppress_tokens=list(range(settings["end"] + 1, theirs.config.vocab_size)),
        )[:, -9:]
    torch.testing.assert_close(alone[0], frames[1, : len(alone[0])], atol=1e-4, rtol=1e-4)
    for row, ids in zip(states, expected.tolist(), strict=True):
        logits = row @ encoder.encoder.get_input_embeddings().weight.T
        logits[:, settings["end"] + 1 :] = -torch.inf
        logits[0, settings["never_first"]] = -torch.inf
        found = logits.argmax(-1).tolist()
        length = min(len(ids), len(found) - 1)  # a limit may end the transcript
        assert found[:length] == ids[:length]


def test_an_embedding_in_the_slot_is_that_of_the_token_that_whisper_writes(speech_llm, noise):
    frames, counts = speech_llm.frames(noise)
    readout = speech_llm.model.encoder.encoder.get_input_embeddings()
    with torch.no_grad():
        readout.weight.mul_(1e4)  # one token has all of the probability
    table = speech_llm.model.get_input_embeddings().weight
    slots, ids = speech_llm.model.project(frames, counts), speech_llm.model.first_pass(frames, counts)
    for slot, row in zip(slots, ids, strict=True):
        torch.testing.assert_close(slot, table[row])
    assert sum(map(len, ids)), "something is heard"


def test_tokens_are_written_as_normalised_transcripts_are(whisper):
    theirs = transformers.AutoTokenizer.from_pretrained(whisper)
    ours = byte_level_tokenizer()
    pieces = pieces_of(theirs, ours, len(theirs)).tolist()
    written = {token: ours.decode([i for i in pieces[index] if i >= 0]) for token, index in theirs.get_vocab().items()}
    assert written["A"] == "a" and written["Ġthe"] == " the" and written["'"] == "'"
    assert all(written[token] == "" for token in (".", "_", "<|endoftext|>"))


def test_simulated_slots_hold_the_errors_of_the_transcripts(speech_llm, monkeypatch):
    monkeypatch.setattr(pseudo_audio, "MISHEARD", 1e9)  # all words
    inventory = transcript_inventory([("so it iz", "so it is")] * 8)
    for inputs, text in (({"inventory": inventory}, "so it iz so"), ({}, "so it is so")):
        slot = simulate(PseudoAudioInputs(speech_llm, 0.0, **inputs), "so it is so", random.Random(1))
        ids = speech_llm.tokenizer.encode(text)
        assert torch.equal(slot, speech_llm.embed(ids))


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
