"""The training voices of the base `small`: a neural voice, heart of hibari-tts, and those of RHVoice."""

from __future__ import annotations

import functools
import random

import numpy as np
from scipy.signal import resample_poly
from speech import RHVOICE, SAMPLE_RATE, Voice, _int16, _sped_up
from speech import utterance as other_utterance

MAX_SECONDS = 12.0


def draw_voice(engine: str, rng: random.Random) -> Voice:
    """Draw a training voice of `hibari` or `rhvoice`.

    The neural one is sped up or slowed down with its pitch, and sounds like many.
    """
    if engine == "hibari":
        warp = rng.uniform(0.78, 1.15)
        return Voice("hibari", "heart", rng.uniform(0.85, 1.25) / warp, rng.randrange(1_000_000), warp)
    warp = rng.uniform(0.85, 1.2)
    return Voice("rhvoice", rng.choice(RHVOICE), rng.uniform(0.8, 1.25) / warp, rng.randint(85, 120), warp)


@functools.cache
def _neural():
    from hibari import Hibari

    return Hibari(threads=1)


def utterance(job: tuple[str, Voice]) -> tuple[str, str, np.ndarray] | None:
    """(text, voice name, int16 samples) of one job, or None if the engine fails or the length is out of bounds."""
    text, voice = job
    if voice.engine != "hibari":
        return other_utterance(job)
    samples = _neural()(text, speed=voice.rate, seed=voice.pitch)  # at 24 kHz
    samples = _sped_up(resample_poly(samples, 2, 3).astype(np.float32), voice.warp)
    if not 0.3 <= len(samples) / SAMPLE_RATE <= MAX_SECONDS:
        return None
    return text, "hibari heart", _int16(samples)
