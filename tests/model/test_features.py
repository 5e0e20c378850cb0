"""Log-mel features."""

from __future__ import annotations

import numpy as np
import torch

from adapt.model.features import log_mel, pad


def test_log_mel_of_a_tone_peaks_at_its_bin():
    time = np.arange(16_000) / 16_000
    quiet = 1e-3 * np.random.default_rng(0).standard_normal(16_000)
    rising = np.sin(2 * np.pi * 1_000 * time) * time + quiet
    (energies,), _ = log_mel(*pad([rising.astype(np.float32)]))
    assert energies.shape == (101, 80)
    assert abs(energies.mean(0)).max() < 1e-4
    assert log_mel(*pad([np.zeros(10, np.float32)]))[0].shape == (1, 1, 80)
    together, mask = log_mel(*pad([rising.astype(np.float32), np.tile(quiet, 2).astype(np.float32)]))
    torch.testing.assert_close(together[0, :101], energies, atol=1e-4, rtol=1e-4)
    assert mask.sum(1).tolist() == [101, 201]
