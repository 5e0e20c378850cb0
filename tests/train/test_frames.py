"""Frames of a frozen encoder on disk: they are those computed, survive a kill, and are bounded."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from adapt.errors import DataError
from adapt.train import frames as module
from adapt.train.frames import FrameStore, mask_frames
from adapt.train.speech import read_speech


def store(tiny, speech, folder, **changes) -> FrameStore:
    return FrameStore(folder, tiny.model.encoder, speech, **{"perturbed": False, "limit": 1.0, **changes})


def test_the_frames_kept_are_those_computed(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    kept = store(tiny, speech, tmp_path / "frames")
    encoder = tiny.model.encoder.eval()
    for item in speech.items[::7]:
        _, samples, lengths = speech.audio([item])
        with torch.no_grad():
            (expected,), (count,) = encoder.lower_frames(*encoder.inputs(samples, lengths))
        (row,) = kept.rows([item])
        assert len(row) == count
        torch.testing.assert_close(row, expected[:count], atol=2e-3, rtol=2e-3)


def test_after_a_kill_only_the_missing_files_are_computed(tiny, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 6)
    speech = read_speech(manifest, str)
    whole = store(tiny, speech, tmp_path / "whole", perturbed=True).rows(speech.items)
    computed, seen = module._computed, []

    def killed(encoder, speech, items, *others):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(items)
        yield from computed(encoder, speech, items, *others)

    monkeypatch.setattr(module, "_computed", killed)
    with pytest.raises(KeyboardInterrupt):
        store(tiny, speech, tmp_path / "killed", perturbed=True)
    seen.append(None)
    monkeypatch.setattr(module, "_computed", lambda *arguments: (seen.append(arguments[2]), computed(*arguments))[1])
    rows = store(tiny, speech, tmp_path / "killed", perturbed=True).rows(speech.items)
    assert len(seen) == 5, "two of four files before the kill, two after it"
    assert all(torch.equal(one, other) for one, other in zip(whole, rows, strict=True))
    store(tiny, speech, tmp_path / "killed", perturbed=True)
    assert len(seen) == 5, "nothing is computed twice"


def test_another_encoder_or_other_recordings_have_frames_of_their_own(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    store(tiny, speech, tmp_path)
    with torch.no_grad():
        next(tiny.model.encoder.encoder.parameters()).add_(1.0)
    store(tiny, speech, tmp_path)
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-1]) + "\n")
    fewer = store(tiny, read_speech(manifest, str), tmp_path)
    assert len(list(tmp_path.glob("*/frames-0000.safetensors"))) == 3 and len(fewer.items) == len(lines) - 1


def test_frames_that_would_be_too_large_are_an_error_before_any_work(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    with pytest.raises(DataError, match=r"more than data\.frames_gb: 1e-06; allow more"):
        store(tiny, speech, tmp_path, limit=1e-6)
    assert not list(tmp_path.glob("*/*"))


def test_recordings_that_cannot_be_read_are_left_out(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    speech.max_bad = 1
    name = json.loads(manifest.read_text().splitlines()[0])["audio"]
    (manifest.parent / name).write_bytes(b"no audio")
    kept = store(tiny, speech, tmp_path / "frames")
    assert len(kept.items) == len(speech.items) - 1 and len(speech.bad) == 1


def test_masks_replace_frames_by_their_mean_and_leave_the_padding():
    frames, lengths = torch.randn(4, 60, 8), torch.tensor([60, 40, 20, 5])
    for row, length in zip(frames, lengths, strict=True):
        row[length:] = 0
    masked = mask_frames(frames, lengths, torch.Generator().manual_seed(1))
    for row, before, length in zip(masked, frames, lengths.tolist(), strict=True):
        changed = (row != before).any(-1)
        assert not row[length:].any() and changed.sum() <= 24
        mean = before[:length].mean(0).expand(int(changed.sum()), -1)
        torch.testing.assert_close(row[changed], mean, atol=1e-5, rtol=1e-5)


def test_another_part_of_a_file_has_frames_of_its_own(tiny, manifest, tmp_path):
    speech = read_speech(manifest, str)
    whole = store(tiny, speech, tmp_path).rows(speech.items[:1])[0]
    item = speech.items[0]
    speech.items[0] = item._replace(audio=dataclasses.replace(item.audio, seconds=item.seconds / 2))
    part = store(tiny, speech, tmp_path).rows(speech.items[:1])[0]
    assert len(part) < len(whole), "the id and the file are the same, the part is not"
