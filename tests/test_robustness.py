"""Noise of a given ratio, silence around the speech, and groups of utterances."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import soundfile

from adapt.model.features import read_audio
from adapt.robustness import SNRS, between_silences, distorted, groups, in_noise
from adapt.text.clip import Clip
from adapt.text.manifest import Utterance, durations


@pytest.mark.parametrize("noise", ["white", "babble"])
def test_noise_has_its_signal_to_noise_ratio_and_depends_on_the_seed_alone(noise, tmp_path):
    rng = np.random.default_rng(0)
    utterances = []
    for i, loudness in enumerate((0.5, 0.01, 0.2, *[0.1] * 9)):
        samples = loudness * np.sin(np.cumsum(rng.uniform(0, 0.5, 6_000 + 1_000 * i))).astype(np.float32)
        soundfile.write(tmp_path / f"{i}.wav", samples, 16_000, subtype="FLOAT")
        utterances.append(Utterance(str(i), "", Clip(tmp_path / f"{i}.wav")))
    speech = soundfile.read(tmp_path / "0.wav", dtype="float32")[0]
    for snr in SNRS:
        noisy, again, other = (in_noise(noise, snr, utterances, s, speech, utterances[0]) for s in (1, 1, 2))
        power = np.mean(speech**2) / np.mean((noisy - speech) ** 2)
        assert 10 * np.log10(power) == pytest.approx(snr, abs=0.01), "the ratio in dB"
        assert np.array_equal(noisy, again), "the same seed gives the same noise"
        assert not np.array_equal(noisy, other), "another seed gives other noise"


def test_silence_is_the_quietest_tenth_of_a_second_of_the_recording():
    rng = np.random.default_rng(0)
    samples = rng.standard_normal(40_000).astype(np.float32) * np.where(np.arange(40_000) // 1_600 == 7, 1e-3, 0.1)
    longer = between_silences(0.5, samples, Utterance("a", ""))
    assert np.array_equal(longer[8_000:-8_000], samples) and len(longer) == 56_000, "half a second on both sides"
    for silence in (longer[:8_000], longer[-8_000:]):
        assert np.array_equal(silence, np.tile(samples[7 * 1_600 : 8 * 1_600], 5)), "the quietest part, repeated"
    assert len(between_silences(1.0, samples[:9], Utterance("a", ""))) == 32_009, "a recording shorter than that part"


def test_a_changed_recording_is_an_utterance_of_its_own_with_the_same_transcript(noise, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise[0], 16_000, subtype="FLOAT")
    utterance = Utterance("a", "so", Clip(tmp_path / "a.wav"))
    padded = distorted(utterance, functools.partial(between_silences, 0.5), tmp_path / "b.wav")
    assert durations([padded])["a"] == durations([utterance])["a"] + 1.0 and padded.text == "so"
    assert np.array_equal(read_audio(padded.audio)[8_000:-8_000], read_audio(utterance.audio))


def test_voices_rates_and_lengths_each_hold_every_utterance_once():
    utterances = [Utterance(str(i), "word " * i, voice="ab"[i % 2]) for i in range(1, 11)]
    found = groups(utterances, {u.id: 10.0 + (7 * int(u.id)) % 11 for u in utterances})
    names = list(found)
    assert names[:2] == ["voice a", "voice b"] and names[2].startswith("slow, below") and names[7].startswith("long")
    for part in (names[:2], names[2:5], names[5:]):
        assert sorted(u.id for name in part for u in found[name]) == sorted(u.id for u in utterances), part
    slow, _, fast = ([len(u.text.split()) for u in found[name]] for name in names[2:5])
    assert max(slow) < min(fast), "words per second"
