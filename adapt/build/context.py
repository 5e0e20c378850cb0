"""What a run of `adapt base` has loaded: its recipe and folder, its device and its speech."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adapt.errors import ModelError
from adapt.recipe.base import BaseRecipe
from adapt.run import RunFolder, StageResult
from adapt.text.corpus import read_manifest, read_text
from adapt.text.normalise import NORMALISERS


@dataclass
class Build:
    """A base recipe being run. report: called with each finished stage's result and a few words about it."""

    recipe: BaseRecipe
    folder: RunFolder
    device: str = "auto"
    report: Callable[[StageResult, str], None] = lambda result, note: None

    def path(self, *parts: str) -> Path:
        return self.folder.path.joinpath(*parts)

    @functools.cached_property
    def torch_device(self):
        import torch

        from adapt.model.load import device_of

        if self.device == "spread":
            raise ModelError("device: 'spread' is for models of others alone; write cuda, or another device")
        found = torch.device(device_of(self.device))
        self.folder.device = str(found)
        return found

    @functools.cached_property
    def recordings(self) -> str:
        """A digest of which recordings there are to train and to watch, by path and size: they are too many to read."""
        digest = hashlib.sha256()
        for manifest in (self.recipe.data.train, self.recipe.data.dev):
            for utterance in read_manifest(manifest, need_audio=False):
                audio = utterance.audio
                size = audio.stat().st_size if audio and audio.exists() else None
                digest.update(f"{utterance.id}\t{size}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def speech(self):
        return self._speech(self.recipe.data.train)

    @functools.cached_property
    def dev(self):
        return self._speech(self.recipe.data.dev)

    def _speech(self, manifest: Path):
        from adapt.train.speech import read_speech

        data = self.recipe.data
        return read_speech(manifest, NORMALISERS[data.normaliser], max_seconds=data.max_seconds, bad=data.bad)

    def texts(self) -> list[str]:
        """The transcripts, and the sentences of data.text; distinct."""
        data = self.recipe.data
        normalise = NORMALISERS[data.normaliser]
        said = [normalise(u.text) for u in read_manifest(data.train, need_audio=False)]
        written = [normalise(line) for line in read_text(data.text)] if data.text else []
        return [text for text in dict.fromkeys([*said, *written]) if text]

    def training(self) -> dict:
        """What every training takes beside its own settings."""
        from adapt.train.fit import uses_bf16

        bf16 = uses_bf16(self.recipe.precision, self.torch_device)
        return {"seed": self.recipe.seed, "bf16": bf16, "workers": self.recipe.workers}

    def settings(self, *sections: str) -> dict:
        """What a stage hangs on: its sections, and how data is read."""
        recipe = self.recipe
        data = {name: getattr(recipe.data, name) for name in ("normaliser", "max_seconds", "bad", "temperature")}
        kept = {name: dataclasses.asdict(getattr(recipe, name)) for name in sections}
        return {"data": data, **kept, "seed": recipe.seed, "precision": recipe.precision}
