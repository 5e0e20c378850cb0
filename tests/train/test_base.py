"""The stages that build a speech LLM, on speech of tones; what they say when it comes to nothing."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch

from adapt.errors import DataError, TrainingError
from adapt.train.align import AlignSettings, align
from adapt.train.ctc import ctc_loss, greedy
from adapt.train.encoder import train_encoder
from adapt.train.fit import fit
from adapt.train.perturb import MARGIN, _with_margins, perturbed
from adapt.train.pseudo_audio import symbol_ids, timed
from adapt.train.reader import heard_behind, train_decoder
from adapt.train.speech import Speech, batches, read_speech

ENCODER = {"batch_seconds": 5.0, "warmup_steps": 5, "temperature": 1.0, "short": 0.1, "seed": 1, "bf16": False}


def test_any_file_at_any_rate_comes_as_16_khz(manifest):
    speech = read_speech(manifest, str)
    items, samples, lengths = speech.audio(speech.items)
    assert len(items) == 20 and samples.shape[1] == lengths.max()
    assert all(abs(n - 9_600) < 1_200 for n in lengths.tolist())  # mp3 pads


def test_a_bad_file_is_named_counted_and_skipped_up_to_a_limit(manifest, caplog):
    folder = manifest.parent
    (folder / "4.wav").write_bytes(b"RIFF")
    (folder / "5.flac").unlink()
    whole = (folder / "9.flac").read_bytes()
    (folder / "9.flac").write_bytes(whole[: len(whole) // 2])  # its header is whole: found out when it is decoded
    with pytest.raises(DataError) as caught:
        read_speech(manifest, str, bad=0.05)
    assert [problem.split(": ")[1].split(";")[0] for problem in caught.value.problems] == [
        "not readable as audio",
        "no such file",
    ]
    with caplog.at_level(logging.WARNING):
        speech = read_speech(manifest, str, bad=0.15)
        items, samples, _ = speech.audio(speech.items)
    assert len(speech.items) == 18 and len(items) == len(samples) == 17
    assert len(speech.bad) == 3 and "9.flac" in caplog.text and "skipped, 3 so far" in caplog.text
    speech.audio(speech.items)
    assert len(speech.bad) == 3  # each file counts once
    speech.max_bad = 2
    speech.bad = speech.bad[:2]
    with pytest.raises(DataError, match="3 recordings cannot be used, 2 are allowed"):
        speech.audio(speech.items)


def test_batches_are_of_like_length_and_languages_come_by_temperature(manifest):
    speech = read_speech(manifest, str)
    long = [item._replace(seconds=0.6 + 0.05 * i, id=f"{i}") for i in range(200) for item in speech.items[:1]]
    long = [item._replace(language="xy"[i % 10 == 0]) for i, item in enumerate(long)]
    shares = {}
    for temperature in (1.0, 5.0):
        draw = batches(Speech(long), steps=300, batch_seconds=60, temperature=temperature, short=0.3)
        drawn = [draw(step) for step in range(300)]
        for batch in drawn:
            longest, shortest = max(batch).seconds, min(batch).seconds
            assert len(batch) * longest <= max(60, longest) and longest - shortest <= 0.08 * 200 * 0.05 + 0.5
        assert max(max(batch).seconds for batch in drawn[:5]) < 3 < max(max(batch).seconds for batch in drawn)
        said = [item.language for batch in drawn for item in batch]
        shares[temperature] = said.count("y") / len(said)
    assert shares[1.0] == pytest.approx(0.1, abs=0.02)
    assert shares[5.0] == pytest.approx(20**0.2 / (20**0.2 + 180**0.2), abs=0.03)


def test_perturbation_keeps_the_shape_and_is_the_same_for_the_same_seed(tiny):
    encoder, lengths = tiny.model.encoder, torch.tensor([16_000, 40_000])
    samples = 0.1 * torch.randn(2, 40_000) * (torch.arange(40_000)[None] < lengths[:, None])
    plain, _ = encoder.inputs(samples, lengths)
    counts = set()
    for seed in range(30):
        features, mask = perturbed(encoder, samples, lengths, seed=seed)
        assert features.shape == (*mask.shape, 80) and torch.isfinite(features).all()
        assert not features[~mask].any() and not torch.equal(features[:, :100], plain[:, :100])
        counts.add(int(mask[1].sum()))
    assert len(counts) > 5 and min(counts) > 200
    assert torch.equal(*(perturbed(encoder, samples, lengths, seed=7)[0] for _ in range(2)))


def test_half_of_the_batches_get_margins_as_quiet_as_they_are_themselves():
    lengths = torch.tensor([16_000, 40_000, 40_000])
    samples = torch.randn(3, 40_000) * torch.where(torch.arange(40_000) < 8_000, 1e-3, 0.1)
    samples *= torch.arange(40_000)[None] < lengths[:, None]
    silences, before = [], []
    for seed in range(100):
        heard, longer = _with_margins(samples, lengths, torch.Generator().manual_seed(seed))
        (silence,) = set((longer - lengths).tolist())  # alike in all rows, so that none is padded for another's
        silences.append(silence)
        assert heard.shape[1] % 8_000 == 0 and heard.shape[1] - int(longer.max()) < 8_000
        for row, own, length, whole in zip(heard, samples, lengths, longer, strict=True):
            inside = own[:length]
            begin = int((row == inside[0]).int().argmax())
            assert torch.equal(row[begin : begin + length], inside) and not row[whole:].any()
            margins = torch.cat([row[:begin], row[begin + length : whole]])
            assert len(margins) < 500 or margins.square().mean().sqrt() == pytest.approx(1e-3, rel=0.2)
            before += [begin / silence] if silence else []
    some = torch.tensor([silence for silence in silences if silence]).double()
    assert 35 <= len(some) <= 65 and some.max() < 2 * MARGIN and some.mean() == pytest.approx(MARGIN, rel=0.15)
    assert sum(before) / len(before) == pytest.approx(0.5, abs=0.1)  # before or behind, by chance


def test_ctc_counts_nothing_for_what_is_too_long_for_its_frames():
    logits = torch.zeros(2, 4, 3)
    loss = ctc_loss(logits, torch.tensor([4, 2]), [[0], [0, 1, 0]], blank=2)
    paths = 10  # of 3 ** 4 those that spell one letter: its run has 4, 3, 2 or 1 of the 4 frames
    assert loss.item() == pytest.approx(-np.log(paths / 3**4) / 2, abs=1e-5)
    assert greedy("aa__a b") == "aa b"


def test_a_piece_is_to_be_known_by_the_letter_behind_it():
    rng = random.Random(1)
    for text in ("all seats wooo", "see eels", "a b"):
        for end in range(1, len(text) + 1):
            path = timed(text, rng)
            (place,) = heard_behind(path, text, [end])
            assert greedy(path[:place]) == text[:end].strip()
            assert place == len(path) or greedy(path[: place + 1]).replace(" ", "") == text[: end + 1].replace(" ", "")
    assert heard_behind("___", "so", [1, 2]) == [3, 3]
    assert heard_behind("ss__t__", "so at", [2, 5]) == [4, 7]


def test_a_decoder_that_reads_is_asked_for_each_piece_in_its_slot(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("adapt.train.reader.fit", lambda model, batch_of, *args, **kwargs: batch_of(0))
    text, more = "stop the music", {"steps": 9, "batch_size": 1, "learning_rate": 1e-3, "seed": 1, "bf16": False}
    batch = train_decoder(tiny, [text], [text], reads=True, noise=0.0, folder=tmp_path, **more)
    target, ids, labels = tiny.target_ids(text), batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    assert labels[-len(target) :] == target
    asked = [place for place, piece in enumerate(labels[: -len(target)]) if piece >= 0]
    assert [labels[place] for place in asked] == target[:-2]  # nothing is heard behind the last
    letters = {index: symbol for symbol, index in symbol_ids(tiny).items()}
    for n, place in enumerate(asked):
        heard = greedy("".join(letters[i] for i in ids[len(tiny.before) : place]))
        assert heard == text[: len(tiny.tokenizer.decode(target[: n + 1])) + 1].strip()


def test_each_stage_lowers_its_loss_and_lora_is_merged(tiny, manifest, tmp_path):
    encoder, speech = tiny.model.encoder, read_speech(manifest, str)
    held = {name: value.clone() for name, value in encoder.named_buffers() if "running" in name}
    log = train_encoder(
        encoder, speech, speech, **ENCODER, steps=60, learning_rate=1e-2, running=1.0, folder=tmp_path / "e"
    )
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < 0.7 * losses[0] and any("wer" in row for row in log)
    now = dict(encoder.named_buffers())
    assert held and all(torch.equal(now[name], value) for name, value in held.items())

    texts = ["play the song", "stop the music", "what is it", "tell me please", "this né"] * 8  # no piece for é
    more = {"steps": 40, "batch_size": 8, "learning_rate": 5e-3, "seed": 1, "bf16": False}
    log = train_decoder(tiny, texts, texts[:4], reads=True, folder=tmp_path / "d", **more)
    rows = [row for row in log if "dev_loss" in row]
    assert rows[-1]["dev_loss"] < rows[0]["dev_loss"]

    head = encoder.ctc_head.weight.clone()
    letters, names = tiny.model.language_model.model.embed_tokens.weight.clone(), set(tiny.model.state_dict())
    rates = {"projector_rate": 5e-3, "encoder_rate": 1e-3, "decoder_rate": 5e-3}
    settings = AlignSettings(30, 5.0, **rates, encoder_from=0.5, decoder="lora", rank=4)
    log = align(tiny, speech, speech, texts, settings, folder=tmp_path / "a", seed=1, bf16=False)
    rows = [row for row in log if "other_loss" in row]
    assert rows[-1]["dev_loss"] < rows[0]["dev_loss"]
    assert not torch.equal(head, encoder.ctc_head.weight)
    assert torch.equal(letters, tiny.model.language_model.model.embed_tokens.weight)
    assert set(tiny.model.state_dict()) == names


@pytest.mark.parametrize("explicit", ["letters", "cosine", "ctc"])
def test_an_explicit_loss_brings_slots_nearer_to_tokens_with_all_else_frozen(explicit, tiny, manifest, tmp_path):
    from adapt.train.align import EXPLICIT, Slots

    speech = read_speech(manifest, str)
    items, samples, lengths = speech.audio(speech.items)

    def distance() -> float:
        with torch.no_grad():
            frames, counts = tiny.model.encoder.frames(*tiny.model.encoder.inputs(samples, lengths))
            vectors, logits = tiny.model.projector(frames), tiny.model.encoder.ctc(frames)
        targets = [tiny.target_ids(item.text) for item in items]
        return EXPLICIT[explicit](Slots(tiny, vectors, -(-counts // 2), targets, logits)).item()

    before, decoder = distance(), {k: v.clone() for k, v in tiny.model.language_model.state_dict().items()}
    settings = AlignSettings(30, 5.0, projector_rate=1e-2, decoder="frozen", played=0.0, explicit=explicit)
    align(tiny, speech, speech, [], settings, folder=tmp_path, seed=1, bf16=False)
    assert distance() < 0.9 * before
    assert all(torch.equal(v, decoder[k]) for k, v in tiny.model.language_model.state_dict().items())


def test_an_exploding_loss_stops_with_its_cause(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    more = ENCODER | {"warmup_steps": 0}
    with pytest.raises(TrainingError, match=r"encoder: the loss exploded, .* learning rate too high"):
        train_encoder(
            tiny.model.encoder, speech, speech, **more, steps=60, learning_rate=1e4, running=0.0, folder=tmp_path
        )


def test_a_loss_that_grows_stops_before_it_is_no_number(tmp_path):
    module = torch.nn.Linear(1, 1)

    def loss_of(module: torch.nn.Module, batch: dict) -> torch.Tensor:
        return 0 * module.weight.sum() + (2.0 if batch["step"] < 10 else 7.0)

    groups = [{"params": list(module.parameters()), "lr": 1e-3}]
    more = {"steps": 40, "groups": groups, "warmup": 1, "folder": tmp_path, "save_every": 5, "label": "prompt"}
    with pytest.raises(TrainingError, match=r"prompt: the loss exploded, from 2.00 to 7.00 at step 15"):
        fit(module, lambda step: {"step": step}, loss_of, **more)


def test_blanks_alone_and_a_decoder_that_does_not_listen_are_named(tiny, manifest, tmp_path, caplog):
    speech = read_speech(manifest, str)
    with torch.no_grad():
        tiny.model.encoder.ctc_head.bias[-1] = 1e3
    with caplog.at_level(logging.WARNING):
        train_encoder(
            tiny.model.encoder,
            speech,
            speech,
            **ENCODER,
            steps=20,
            learning_rate=1e-6,
            running=1.0,
            folder=tmp_path / "e",
        )
        assert "nothing but blanks is heard" in caplog.text
        for parameter in tiny.model.projector.parameters():
            torch.nn.init.zeros_(parameter)
        settings = AlignSettings(20, 2.0, projector_rate=1e-9, decoder="frozen", played=0.0, explicit="none")
        align(tiny, speech, speech, [], settings, folder=tmp_path / "a", seed=1, bf16=False)
    assert "does not look at the audio" in caplog.text
