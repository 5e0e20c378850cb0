"""A run reads each file of the user once: a manifest is parsed once, an audio file is hashed and encoded once."""

from __future__ import annotations

from collections import Counter

from adapt import run as running
from adapt.model.composed import ComposedForSpeechRecognition
from adapt.stages import manifests

from ..session import adapt


def test_a_run_parses_each_manifest_once_and_hashes_and_encodes_each_recording_once(recipe, tmp_path, monkeypatch):
    parsed, hashed, projected = Counter(), Counter(), []
    read_manifest, sha, project = manifests.read_manifest, running._sha, ComposedForSpeechRecognition.project

    def counted_read(path, *args, **kwargs):
        parsed[path.name] += 1
        return read_manifest(path, *args, **kwargs)

    def counted_sha(file):
        hashed[file.name] += 1
        return sha(file)

    def counted_project(model, frames, lengths):
        projected.extend(lengths.tolist())
        return project(model, frames, lengths)

    monkeypatch.setattr(ComposedForSpeechRecognition, "project", counted_project)
    monkeypatch.setattr(manifests, "read_manifest", counted_read)
    monkeypatch.setattr(running, "_sha", counted_sha)
    result = adapt("run", recipe, "-o", tmp_path / "run", "-s", "fusion.boost=0.1", "-s", "fusion.lm=0.1")
    assert result.exit_code == 0, result.output
    assert parsed == {"test.jsonl": 1, "source.jsonl": 1}, "manifests are parsed once"
    recordings = {name: count for name, count in hashed.items() if name.endswith(".wav")}
    assert recordings == {"0.wav": 1, "1.wav": 1, "2.wav": 1}, "recordings are hashed once"
    assert len(projected) == 4, "each of two batches is encoded once, for the training and for all systems"
    again = adapt("run", recipe, "-o", tmp_path / "run", "-s", "fusion.boost=0.2", "-s", "decoder.rank=3")
    assert again.exit_code == 0 and "decoder.rank changed" in again.stderr, again.output
    assert len(projected) == 4, "the next command encodes nothing again"
