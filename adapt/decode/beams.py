"""The decoder's cache in beam search: what the beams of an utterance share is never moved."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 32  # tokens that a layer makes room for at a time


class _BeamLayer(DynamicLayer):
    """Keys and values of beams. `DynamicLayer` copies all of them twice a step: as beams change places, and to append.

    Beams change places within their utterance only, so that its prompt may lie where it is, and what is new goes into
    room that was left for it.
    """

    def __init__(self, layer: DynamicLayer, rows: torch.Tensor):
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self._prompt = layer.get_seq_length()
        self._keys, self._values = (x.index_select(0, rows.to(x.device)) for x in (layer.keys, layer.values))
        self.keys, self.values = self._keys, self._values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self._keys.shape[-2]:
            more = end - start + ROOM
            self._keys, self._values = (F.pad(x, (0, 0, 0, more)) for x in (self.keys, self.values))
        self._keys[..., start:end, :] = key_states
        self._values[..., start:end, :] = value_states
        self.keys, self.values = self._keys[..., :end, :], self._values[..., :end, :]
        return self.keys, self.values

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        for written in (self.keys[..., self._prompt :, :], self.values[..., self._prompt :, :]):
            written.copy_(written.index_select(0, beam_idx.to(written.device)))


def branch(cache: Cache, rows: torch.Tensor) -> None:
    """Make each row of `cache`, an utterance's prompt, as many as `rows` names it, for beam search; in place.

    Only layers of full attention are made `_BeamLayer`: others, as Mamba's states, keep their own ways.
    """
    for i, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[i] = _BeamLayer(layer, rows)
        else:
            layer.reorder_cache(rows)
