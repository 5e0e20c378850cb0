from __future__ import annotations

import pytest
import torch

from adapt.train.perturb import MARGIN, _with_margins, perturbed


def test_perturbation_is_a_function_of_its_seed_and_changes_the_lengths(tiny):
    encoder, lengths = tiny.model.encoder, torch.tensor([16_000, 40_000])
    samples = 0.1 * torch.randn(2, 40_000) * (torch.arange(40_000)[None] < lengths[:, None])
    plain, _ = encoder.inputs(samples, lengths)
    counts = set()
    for seed in range(30):
        features, mask = perturbed(encoder, samples, lengths, seed=seed)
        assert features.shape == (*mask.shape, 80) and torch.isfinite(features).all()
        assert not features[~mask].any(), "features are zero beyond each row's own"
        assert not torch.equal(features[:, :100], plain[:, :100]), "every seed changes the features"
        counts.add(int(mask[1].sum()))
    assert len(counts) > 5 and min(counts) > 200, "lengths differ between seeds"
    assert torch.equal(*(perturbed(encoder, samples, lengths, seed=7)[0] for _ in range(2))), "a seed repeats"


def test_half_of_the_batches_get_silence_as_quiet_as_the_recording():
    lengths = torch.tensor([16_000, 40_000, 40_000])
    samples = torch.randn(3, 40_000) * torch.where(torch.arange(40_000) < 8_000, 1e-3, 0.1)
    samples *= torch.arange(40_000)[None] < lengths[:, None]
    silences, shares_before = [], []
    for seed in range(100):
        out, longer = _with_margins(samples, lengths, torch.Generator().manual_seed(seed))
        (silence,) = set((longer - lengths).tolist())  # equal in all rows, so that no row needs more padding
        silences.append(silence)
        assert out.shape[1] % 8_000 == 0 and out.shape[1] - int(longer.max()) < 8_000, "multiples of half a second"
        for row, own, length, whole in zip(out, samples, lengths, longer, strict=True):
            speech = own[:length]
            begin = int((row == speech[0]).int().argmax())
            assert torch.equal(row[begin : begin + length], speech), "the speech is unchanged"
            assert not row[whole:].any(), "padding is zero"
            margins = torch.cat([row[:begin], row[begin + length : whole]])
            assert len(margins) < 500 or margins.square().mean().sqrt() == pytest.approx(1e-3, rel=0.2), "as quiet"
            shares_before += [begin / silence] if silence else []
    some = torch.tensor([silence for silence in silences if silence]).double()
    assert 35 <= len(some) <= 65, "half of the batches have silence"
    assert some.max() < 2 * MARGIN and some.mean() == pytest.approx(MARGIN, rel=0.15), "MARGIN is its mean"
    assert sum(shares_before) / len(shares_before) == pytest.approx(0.5, abs=0.1), "before or after, by chance"
