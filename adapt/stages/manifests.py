"""The manifests that a recipe names, each parsed once."""

from __future__ import annotations

from pathlib import Path

from adapt.text.manifest import Utterance, durations, read_manifest, require_audio


class Manifests:
    """Utterances and durations by the path of their manifest, each read at its first use."""

    def __init__(self) -> None:
        self._utterances: dict[Path, list[Utterance]] = {}
        self._with_audio: set[Path] = set()
        self._seconds: dict[Path, dict[str, float]] = {}

    def utterances(self, manifest: Path) -> list[Utterance]:
        """All utterances of a manifest; their audio files need not exist. Raises DataError with every bad line."""
        if manifest not in self._utterances:
            self._utterances[manifest] = read_manifest(manifest, need_audio=False)
        return self._utterances[manifest]

    def spoken(self, manifest: Path) -> list[Utterance]:
        """As `utterances`, with audio files. Raises DataError with every line whose audio file does not exist."""
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
        """The manifests that are not None, each followed by its audio files, as the inputs of a stage."""
        existing = [manifest for manifest in manifests if manifest]
        return [file for manifest in existing for file in (manifest, *(u.audio.path for u in self.spoken(manifest)))]
