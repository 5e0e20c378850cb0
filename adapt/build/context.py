"""A run of `adapt base`: its recipe and folder, and the speech and the composed model that its stages share."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapt.errors import ModelError
from adapt.recipe.base import BaseRecipe
from adapt.run import RunFolder, StageResult, read_json
from adapt.stages.manifests import Manifests
from adapt.text.corpus import read_text
from adapt.text.normalise import NORMALISERS


@dataclass
class Build:
    """A run of a base recipe.

    device: auto, or a device of torch. report: called with the result of each stage and a note about it.
    """

    recipe: BaseRecipe
    folder: RunFolder
    device: str = "auto"
    report: Callable[[StageResult, str], None] = lambda result, note: None
    manifests: Manifests = field(default_factory=Manifests)

    def path(self, *parts: str) -> Path:
        """A path in the run folder."""
        return self.folder.path.joinpath(*parts)

    @functools.cached_property
    def torch_device(self):
        """The device of the training. Raises ModelError for `spread` and `shard`."""
        import torch

        from adapt.model.load import device_of

        if self.device in ("spread", "shard"):
            raise ModelError(f"device: {self.device!r} cannot train a base; give cuda, or another device")
        device = torch.device(device_of(self.device))
        self.folder.device = str(device)
        return device

    @functools.cached_property
    def recordings(self) -> str:
        """A hash of the ids and file sizes of all training and development recordings, which are too many to read."""
        digest = hashlib.sha256()
        for manifest in (self.recipe.data.train, self.recipe.data.dev):
            for utterance in self.manifests.utterances(manifest):
                audio = utterance.audio and utterance.audio.path
                size = audio.stat().st_size if audio and audio.exists() else None
                digest.update(f"{utterance.id}\t{size}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def speech(self):
        """The training speech, a `train.speech.Speech`."""
        return self._speech(self.recipe.data.train)

    @functools.cached_property
    def dev(self):
        """The development speech, a `train.speech.Speech`."""
        return self._speech(self.recipe.data.dev)

    def _speech(self, manifest: Path):
        """The recordings of a manifest. Raises DataError if more than the share `data.bad` cannot be read."""
        from adapt.train.speech import read_speech

        data = self.recipe.data
        return read_speech(
            manifest,
            NORMALISERS[data.normaliser],
            utterances=self.manifests.utterances(manifest),
            max_seconds=data.max_seconds,
            bad=data.bad,
        )

    def frames(self, encoder):
        """The frames of the training speech by a frozen encoder, a `train.frames.FrameStore`; None if it is trained."""
        from adapt.train.frames import FrameStore

        if self.recipe.encoder.frozen != "all":
            return None
        training = self.training()
        del training["workers"]
        limit = self.recipe.data.frames_gb
        return FrameStore(self.path("frames"), encoder, self.speech, perturbed=True, limit=limit, **training)

    def texts(self) -> list[str]:
        """The distinct sentences of the transcripts and of data.text, normalised."""
        data = self.recipe.data
        normalise = NORMALISERS[data.normaliser]
        transcripts = [normalise(u.text) for u in self.manifests.utterances(data.train)]
        sentences = [normalise(line) for line in read_text(data.text)] if data.text else []
        return [text for text in dict.fromkeys([*transcripts, *sentences]) if text]

    @property
    def encoder_alphabet(self) -> str:
        """The characters of the CTC head that the stage `encoder` wrote."""
        return read_json(self.path("encoder/config.json"))["alphabet"]

    def compose(self, llm, tokenizer, **parts):
        """The speech LLM of the run's encoder, a new projector, and a decoder.

        llm: a causal LM with its tokenizer. parts: units and letters, as in `adapt.model.compose.compose`.
        """
        import torch

        from adapt.model.compose import compose
        from adapt.model.encoders import CtcEncoder
        from adapt.model.load import view

        settings = self.recipe.align
        encoder = CtcEncoder.from_pretrained(self.path("encoder"), dtype=torch.float32)
        torch.manual_seed(self.recipe.seed)
        model = compose(
            encoder,
            llm,
            tokenizer,
            slots=settings.slots,
            stack=settings.stack,
            projector=settings.projector,
            projector_size=settings.projector_size,
            prompt=settings.prompt,
            max_seconds=self.recipe.data.max_seconds,
            **parts,
        )
        model.generation_config.update(**llm.generation_config.to_diff_dict())
        return view(self.recipe.name, model.to(self.torch_device), tokenizer)

    def training(self) -> dict:
        """The arguments of every training: seed, bf16 and workers."""
        from adapt.train.fit import uses_bf16

        bf16 = uses_bf16(self.recipe.precision, self.torch_device)
        return {"seed": self.recipe.seed, "bf16": bf16, "workers": self.recipe.workers}

    def settings(self, section: str) -> dict:
        """The settings of a stage in run.json: its section of the recipe, and the keys of data and training."""
        recipe = self.recipe
        data = {name: getattr(recipe.data, name) for name in ("normaliser", "max_seconds", "bad", "temperature")}
        values = {section: dataclasses.asdict(getattr(recipe, section))}
        return {"data": data, **values, "seed": recipe.seed, "precision": recipe.precision}


def last_figure(log: Path, key: str, form: str) -> str:
    """The last `key` of a training log, formatted with `form`; "" if the log has none."""
    rows = [row for row in json.loads(log.read_text(encoding="utf-8")) if key in row]
    return form.format(rows[-1][key]) if rows else ""
