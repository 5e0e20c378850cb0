"""The manifests that a recipe names, each parsed once."""

from __future__ import annotations

from pathlib import Path

from adapt.text.corpus import Utterance, durations, read_manifest, require_audio


class Manifests:
    """Utterances and durations by the path of their manifest, read when they are first asked for."""

    def __init__(self) -> None:
        self._utterances: dict[Path, list[Utterance]] = {}
        self._with_audio: set[Path] = set()
        self._seconds: dict[Path, dict[str, float]] = {}

    def utterances(self, manifest: Path) -> list[Utterance]:
        """All lines of a manifest; their audio is not looked for. Raises DataError for every bad line."""
        if manifest not in self._utterances:
            self._utterances[manifest] = read_manifest(manifest, need_audio=False)
        return self._utterances[manifest]

    def spoken(self, manifest: Path) -> list[Utterance]:
        """As `utterances`. Raises DataError for every line whose audio file is not there."""
        utterances = self.utterances(manifest)
        if manifest not in self._with_audio:
            require_audio(utterances)
            self._with_audio.add(manifest)
        return utterances

    def seconds(self, manifest: Path) -> dict[str, float]:
        """The duration of each utterance by its id. Raises DataError for audio that cannot be read."""
        if manifest not in self._seconds:
            self._seconds[manifest] = durations(self.spoken(manifest))
        return self._seconds[manifest]

    def files(self, *manifests: Path | None) -> list[Path]:
        """The manifests, None left out, and behind each the audio files that it names: what a stage reads."""
        named = [manifest for manifest in manifests if manifest]
        return [file for manifest in named for file in (manifest, *(u.audio for u in self.spoken(manifest)))]
