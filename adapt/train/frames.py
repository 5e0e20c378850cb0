"""Frames of a frozen audio encoder, computed once for each recording and kept on disk in half precision."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from adapt.errors import DataError
from adapt.model.encoders import CtcEncoder
from adapt.ranks import launched
from adapt.text.clip import Clip
from adapt.train.perturb import perturb_audio, perturbed
from adapt.train.speech import Speech, Spoken, readable_batch

PART = 1_000  # recordings in a file
BATCH_SECONDS = 60.0
GIGABYTE = 10**9


class FrameStore:
    """The lower frames (`CtcEncoder.lower_frames`) of the recordings of `speech`, in `folder`.

    The folder is keyed by the encoder's weights and the recordings, so that another encoder never reads its frames. It
    holds `frames-NNNN.safetensors`, each written at once: after a kill, the next call computes those that are missing.
    Recordings that cannot be read are left out, and reported as by `Speech.audio`.

    perturbed: whether silence, noise and room acoustics are added to the recordings, once, drawn with `seed`. limit:
    the size in gigabytes that the frames may take. Raises DataError if they would take more.
    """

    def __init__(
        self,
        folder: Path,
        encoder: CtcEncoder,
        speech: Speech,
        *,
        perturbed: bool,
        limit: float,
        seed: int = 1,
        bf16: bool = False,
        label: str = "frames",
    ):
        self.items = list(speech.items)
        key = _key(encoder, self.items, perturbed, seed)
        self._folder = folder / key
        self._audible = encoder.encoder.config.hidden_size
        self._check_size(encoder, encoder.width, limit, folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = [self.items[start : start + PART] for start in range(0, len(self.items), PART)]
        files = [self._folder / f"frames-{number:04d}.safetensors" for number in range(len(parts))]
        ranks = launched()
        if todo := [number for number in ranks.share(range(len(files))) if not files[number].exists()]:
            form = "{desc:<10} [{bar:20}] {percentage:3.0f}%  {n_fmt}/{total_fmt} recordings  {remaining} left"
            counted = sum(len(parts[n]) for n in todo)
            with tqdm(total=counted, desc=label, bar_format=form, file=sys.stderr, disable=not ranks.is_first) as bar:
                for number in todo:
                    frames = {}
                    for item, row in _computed(encoder, speech, parts[number], perturbed, seed + number, bf16):
                        frames[item.id] = row
                        bar.update()
                    bar.update(len(parts[number]) - len(frames))
                    unfinished = self._folder / f"unfinished-{ranks.rank}"
                    save_file(frames, unfinished)
                    unfinished.replace(files[number])
        ranks.wait()
        self._opened = [safe_open(file, "pt") for file in files]
        self._place = {name: opened for opened in self._opened for name in opened.keys()}  # noqa: SIM118
        self.items = [item for item in self.items if item.id in self._place]

    def _check_size(self, encoder: CtcEncoder, width: int, limit: float, folder: Path) -> None:
        """Raises DataError if the frames would take more than `limit` gigabytes, or more than the disk has."""
        seconds = sum(item.seconds for item in self.items)
        size = 2 * width * seconds * encoder.frame_rate / GIGABYTE
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / GIGABYTE
        if size > limit:
            problem = (
                f"those of {seconds / 3600:.1f} h of audio take {size:.1f} GB, more than data.frames_gb: {limit:g}"
            )
            raise DataError(f"frames: {problem}; allow more, or train on fewer recordings")
        if size > free and not self._folder.exists():
            raise DataError(f"{folder}: frames take {size:.1f} GB, but {free:.1f} GB are free; make room")

    def rows(self, items: Sequence[Spoken]) -> list[torch.Tensor]:
        """The lower frames `[frames, hidden]` of each recording, float32."""
        return [self._place[item.id].get_tensor(item.id).float() for item in items]

    def masked_batch(self, items: Sequence[Spoken], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The lower frames of recordings, `[batch, frames, hidden]`, zero-padded, and their counts `[batch]`.

        Spans of them are masked (`mask_frames`); a transcript in them (`adapt.model.first_pass`) is not.
        """
        rows = self.rows(items)
        frames, counts = pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
        audible, transcript = frames[..., : self._audible], frames[..., self._audible :]
        masked = mask_frames(audible, counts, torch.Generator().manual_seed(seed))
        return torch.cat([masked, transcript], -1), counts


def _key(encoder: CtcEncoder, items: Sequence[Spoken], perturbed: bool, seed: int) -> str:
    """A hash of the encoder, of the recordings' ids, sizes and parts, and of the perturbation."""
    digest = hashlib.sha256(json.dumps(encoder.encoder.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weights in sorted(encoder.encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for item in items:
        clip = item.audio
        size = clip.path.stat().st_size if clip.path.exists() else None
        part = "" if clip == Clip(clip.path) else f"\t{clip.start} {clip.seconds} {clip.channel}"
        digest.update(f"{item.id}\t{size}{part}\n".encode())
    digest.update(f"{perturbed} {seed if perturbed else None}".encode())
    return digest.hexdigest()[:16]


@torch.no_grad()
def _computed(
    encoder: CtcEncoder, speech: Speech, items: Sequence[Spoken], perturbed: bool, seed: int, bf16: bool
) -> Iterator[tuple[Spoken, torch.Tensor]]:
    """Recordings that can be read, with their lower frames in half precision."""
    generator = torch.Generator().manual_seed(seed)
    was_training = encoder.training
    encoder.eval()
    start = 0
    while start < len(items):
        count = max(1, int(BATCH_SECONDS / items[start].seconds))
        read, samples, lengths = speech.audio(items[start : start + count])
        start += count
        if not read:
            continue
        if perturbed:
            samples, lengths = perturb_audio(samples, lengths, generator)
        device = encoder.device
        inputs, mask = encoder.inputs(samples.to(device), lengths.to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            frames, counts = encoder.lower_frames(inputs, mask)
        for item, row, n in zip(read, frames.cpu(), counts.tolist(), strict=True):
            yield item, row[:n].half().contiguous()
    encoder.train(was_training)


Batches = Iterator[tuple[list[Spoken], torch.Tensor, torch.Tensor]]


def frames_in_order(encoder: CtcEncoder, speech: Speech, frozen: bool) -> Callable[[], Batches]:
    """The function that yields all recordings that can be read, in batches: with their frames and counts, no gradients.

    frozen: whether the lower frames stay the same, so that they are computed in the first call alone.
    """
    kept: list[tuple] = []

    def lower_frames() -> Batches:
        for items, samples, lengths in speech.in_order():
            inputs = encoder.inputs(samples.to(encoder.device), lengths.to(encoder.device))
            yield items, *encoder.lower_frames(*inputs)

    @torch.no_grad()
    def frames() -> Batches:
        if frozen and not kept:
            kept.extend(lower_frames())
        for items, rows, counts in kept or lower_frames():
            yield items, *encoder.upper_frames(rows, counts)

    return frames


def spoken_batch(
    recordings_of: Callable[[int], list[Spoken]], speech: Speech, store: FrameStore | None, step: int, seed: int
) -> tuple[list[Spoken], dict]:
    """The recordings of batch `step` and what `frames_of` needs of them: stored frames, masked, or else the audio.

    recordings_of: as `speech.batches` returns it.
    """
    if store is None:
        return readable_batch(recordings_of, speech, step)
    items = recordings_of(step)
    frames, counts = store.masked_batch(items, seed)
    return items, {"frames": frames, "counts": counts}


def frames_of(encoder: CtcEncoder, batch: dict, rows: Sequence[int], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and counts, as `CtcEncoder.frames`, of some rows of a `spoken_batch`; audio is perturbed with `seed`."""
    if "frames" in batch:
        return encoder.upper_frames(batch["frames"][rows], batch["counts"][rows])
    inputs, mask = perturbed(encoder, batch["samples"], batch["lengths"], seed=seed)  # alike in all processes
    return encoder.frames(inputs[rows], mask[rows])


def mask_frames(frames: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """SpecAugment (1904.08779) on encoder frames: up to two spans of up to 0.24 s in each row become its mean.

    frames: `[batch, frames, hidden]`, zero beyond `lengths`, `[batch]`; 50 frames a second are assumed.
    """
    batch, size, _ = frames.shape
    place = torch.arange(size)[None]
    keep = torch.ones(batch, size, dtype=torch.bool)
    for _ in range(2):
        width = torch.randint(0, 13, (batch, 1), generator=generator)
        start = (torch.rand(batch, 1, generator=generator) * (lengths[:, None] - width).clamp_min(1)).long()
        keep &= (place < start) | (place >= start + width)
    keep |= place >= lengths[:, None]
    mean = frames.sum(1, keepdim=True) / lengths[:, None, None].clamp_min(1)
    return torch.where(keep[..., None], frames, mean)
