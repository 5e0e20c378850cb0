"""Whisper with its own decoder as an audio encoder: the first pass of a two-pass recogniser.

Whisper writes a transcript by beam search. Each frame of its encoder is followed by the state of its decoder for the
token that is spoken there, which cross-attention tells. It may read a list of names before a recording, as if they had
been said before; then it searches greedily, because more beams gained nothing there.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, DynamicCache, EncoderDecoderCache, PreTrainedConfig
from transformers.models.whisper.modeling_whisper import WhisperDecoder, WhisperPreTrainedModel

from adapt.model.features import HOP
from adapt.model.first_pass_search import BEAMS, Step, likeliest_tokens
from adapt.model.readout import choosing, written_logits
from adapt.model.whisper import MARGIN, WindowedWhisper, whisper_log_mel

# Windows in filterbank frames (10 ms). On a window of 10 s, Whisper's decoder has about as many errors as on the 30 s
# of its training; on one as long as the recording, it writes nothing or repeats itself.
SHORTEST = 1_000
GRID = 500  # recordings whose windows have the same length are transcribed together
SILENCE = 100  # the least silence after a recording
REPEATED = 6  # tokens that a transcript does not repeat in the same order: Whisper sometimes goes round in circles

AT_ONCE = 16  # transcripts that are searched or weighed together
SHARED = "adapt_shared_keys"  # `shared_attention`, for transformers

Transcribed = tuple[torch.Tensor, torch.Tensor]  # states and attention of a transcript


@dataclass
class Encoded:
    """Recordings whose windows have the same length.

    places: in the batch. heard: the output of the encoder, `[recordings, frames, hidden]`. counts: of frames,
    `[recordings]`, without those of the rest of the window. attended: keys and values of cross-attention to `heard`.
    """

    places: list[int]
    heard: torch.Tensor
    counts: torch.Tensor
    attended: DynamicCache

    def rows(self, at: Sequence[int]) -> tuple[torch.Tensor, EncoderDecoderCache]:
        """`heard` of the recordings `at`, of which one may occur several times, and a cache to decode them with.

        The beams of a recording share its keys and values (`shared_attention`).
        """
        attended = DynamicCache()
        attended.layers = [copy.copy(layer) for layer in self.attended.layers]
        for layer in attended.layers:
            layer.keys, layer.values = layer.keys[at], layer.values[at]
        return self.heard[at], EncoderDecoderCache(DynamicCache(), attended)


class TranscribingWhisper(WhisperPreTrainedModel):
    """Whisper's encoder and decoder, with the weights of `WhisperModel`.

    `config.first_pass` holds token ids and attention heads (`first_pass_settings`).
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.encoder = WindowedWhisper(config)
        with_weights = copy.deepcopy(config)
        with_weights._attn_implementation = "eager"  # fused kernels return no attention weights
        self.decoder = WhisperDecoder(with_weights)
        shared = copy.deepcopy(with_weights)
        shared._attn_implementation = SHARED
        for layer in self.decoder.layers:
            layer.encoder_attn.config = shared
        # The arguments of `_encode`, what else its result depends on, and the result; None before the first call.
        self._encoded: tuple[torch.Tensor, torch.Tensor, tuple, list[Encoded]] | None = None
        self._readout: tuple[tuple, torch.Tensor] | None = None  # what `readout` depends on, and its result
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embed_tokens

    def readout(self) -> torch.Tensor:
        """The embeddings of the tokens of text and of the end, in float32 and without gradients, `[tokens, hidden]`.

        Those of languages, tasks and times are left out.
        """
        weight = self.get_input_embeddings().weight
        if weight.dtype == torch.float32:
            return weight.detach()[: self.config.first_pass["end"] + 1]
        state = weight.data_ptr(), weight._version, weight.dtype
        if self._readout is None or self._readout[0] != state:
            self._readout = state, weight.detach()[: self.config.first_pass["end"] + 1].float()
        return self._readout[1]

    @torch.no_grad()
    def frames(self, features: torch.Tensor, recorded: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames `[batch, frames, 2 * hidden]`, and their counts `[batch]`, which include MARGIN.

        features: those of `first_pass_log_mel`, `[batch, bins, frames]`. recorded: features of each recording,
        `[batch]`. The second half of a frame is the state that outputs the token spoken in the frame; in the frames
        after the last token, the end.
        """
        rows: list[torch.Tensor | None] = [None] * len(recorded)
        for one, places, at in self._grouped(features, recorded, range(len(recorded))):
            nothing = [()] * len(at)
            transcribed = self._transcribed(one, at, nothing, self._written(one, at, nothing, BEAMS))
            for i, place, own in zip(places, at, transcribed, strict=True):
                rows[i] = _joined(one.heard[place, : one.counts[place]], *own)
        return pad_sequence(rows, batch_first=True), self._counts(recorded)

    @torch.no_grad()
    def frames_after(
        self,
        features: torch.Tensor,
        recorded: torch.Tensor,
        lists: Sequence[tuple[int, Sequence[int]]],
        plain: Sequence[Sequence[int]],
        written: Sequence[Sequence[int]] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
        """As `frames`, where Whisper takes a text for what was said before a recording, such as a list of names.

        lists: the place of a recording, and the tokens of a text before it; a recording may have several, or none. The
        results have a row for each. plain: tokens of the transcript of each recording without them. written: tokens of
        the transcript after each list; None: those that a greedy search finds. The third result is how much a recording
        speaks for a transcript after its list, in nats: its log odds against the plain one, where Whisper reads the
        list, plus the same where it does not.
        """
        rows: list[torch.Tensor | None] = [None] * len(lists)
        found: list[Sequence[int]] = [()] * len(lists)
        for one, numbers, at in self._grouped(features, recorded, [place for place, _ in lists]):
            texts = [lists[n][1] for n in numbers]
            own = self._written(one, at, texts, 1) if written is None else [written[n] for n in numbers]
            transcribed = self._transcribed(one, at, texts, own)
            for n, place, tokens, row in zip(numbers, at, own, transcribed, strict=True):
                rows[n], found[n] = _joined(one.heard[place, : one.counts[place]], *row), tokens
        odds = self.log_odds(features, recorded, lists, plain, found)
        without = self.log_odds(features, recorded, [(place, ()) for place, _ in lists], plain, found)
        counts = self._counts(recorded)[[place for place, _ in lists]]
        return pad_sequence(rows, batch_first=True), counts, [a + b for a, b in zip(odds, without, strict=True)]

    @torch.no_grad()
    def log_odds(
        self,
        features: torch.Tensor,
        recorded: torch.Tensor,
        lists: Sequence[tuple[int, Sequence[int]]],
        plain: Sequence[Sequence[int]],
        written: Sequence[Sequence[int]],
    ) -> list[float]:
        """How much likelier each transcript `written` is than the plain one, in nats, where Whisper reads its list.

        One that has not fewer tokens than the recording has frames has -inf. The arguments are those of `frames_after`.
        """
        settings, odds = self.config.first_pass, [0.0] * len(lists)
        for one, numbers, at in self._grouped(features, recorded, [place for place, _ in lists]):
            texts, changed = [], []
            for n, place in zip(numbers, at, strict=True):
                number, before = lists[n]
                pair = [[*tokens, settings["end"]] for tokens in (written[n], plain[number])]
                if len(pair[0]) > one.counts[place]:
                    odds[n] = -math.inf
                elif pair[0] != pair[1]:
                    changed.append(n)
                    same = next(i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b)
                    texts += [(place, self._prompt(before), tokens, same) for tokens in pair]
            together = [texts[first : first + AT_ONCE] for first in range(0, len(texts), AT_ONCE)]
            scores = itertools.chain.from_iterable(self._log_probabilities(one, some) for some in together)
            for n in changed:
                odds[n] = next(scores) - next(scores)
        return odds

    def _grouped(
        self, features: torch.Tensor, recorded: torch.Tensor, places: Sequence[int]
    ) -> Iterator[tuple[Encoded, list[int], list[int]]]:
        """Groups of at most AT_ONCE of `places` in the batch whose recordings have equal windows.

        Each is (recordings, numbers in `places`, the place of each in `recordings`).
        """
        for one in self._encode(features, recorded):
            mine = [(n, one.places.index(place)) for n, place in enumerate(places) if place in one.places]
            for first in range(0, len(mine), AT_ONCE):
                numbers, at = map(list, zip(*mine[first : first + AT_ONCE], strict=True))
                yield one, numbers, at

    def _encode(self, features: torch.Tensor, recorded: torch.Tensor) -> list[Encoded]:
        """Recordings as the encoder hears them; those with equal windows are together.

        The last ones are kept, because lists are read before them again and again.
        """
        weights = [parameter._version for parameter in self.parameters()]  # changes in place count them up
        state = features.device, torch.is_autocast_enabled(features.device.type), weights
        if self._encoded:
            *kept, kept_state, found = self._encoded
            if kept_state == state and all(map(torch.equal, kept, (features, recorded))):
                return found
        found = list(self._newly_encoded(features, recorded))
        self._encoded = features, recorded, state, found
        return found

    def _newly_encoded(self, features: torch.Tensor, recorded: torch.Tensor) -> Iterator[Encoded]:
        """As `_encode`."""
        windows, counts = _windows(self.config, recorded), self._counts(recorded)
        for window in windows.unique().tolist():
            places = (windows == window).nonzero()[:, 0]
            heard = self.encoder.windowed(features[places][..., :window], windows[places])
            ends = torch.full((len(places), 1), self.config.first_pass["end"], device=heard.device)
            attended = self.decoder(ends, encoder_hidden_states=heard).past_key_values.cross_attention_cache
            yield Encoded(places.tolist(), heard, counts[places], attended)

    def _counts(self, recorded: torch.Tensor) -> torch.Tensor:
        """The number of frames of recordings of `recorded` features, `[batch]`."""
        return (recorded + MARGIN).clamp_max(2 * self.config.max_source_positions).add(1) // 2

    def _log_probabilities(
        self, recordings: Encoded, texts: Sequence[tuple[int, Sequence[int], Sequence[int], int]]
    ) -> list[float]:
        """The log probability of each text: (its recording, prompt, tokens, how many of these are not counted)."""
        heard, cache = recordings.rows([row for row, *_ in texts])
        inputs = [torch.tensor([*prompt, *tokens[:-1]], device=heard.device) for _, prompt, tokens, _ in texts]
        padded = pad_sequence(inputs, batch_first=True, padding_value=self.config.first_pass["end"])
        states = self.decoder(padded, encoder_hidden_states=heard, past_key_values=cache).last_hidden_state
        forced = [
            row[len(prompt) - 1 + same : len(prompt) - 1 + len(tokens)]
            for (_, prompt, tokens, same), row in zip(texts, states, strict=True)
        ]
        logs = written_logits(torch.cat(forced), self.readout(), self.config.first_pass).log_softmax(-1)
        written = torch.tensor([t for _, _, tokens, same in texts for t in tokens[same:]], device=heard.device)
        of_texts = logs.gather(1, written[:, None])[:, 0].split(list(map(len, forced)))
        return [float(of_text.sum()) for of_text in of_texts]

    def _written(
        self, recordings: Encoded, at: Sequence[int], lists: Sequence[Sequence[int]], beams: int
    ) -> list[list[int]]:
        """The tokens of transcripts by beam search, without their ends.

        at: the recording of each. lists: what Whisper reads before it, as in `frames_after`; () for nothing.
        """
        counts = recordings.counts[at]
        limits = (counts // 8 + 10).minimum(counts - 1)  # tokens without the end
        search = self._search(recordings, at, *self._prompts(lists, counts.device), beams)
        return likeliest_tokens(search, limits.tolist(), self.config.first_pass["end"], REPEATED, beams)

    def _transcribed(
        self, recordings: Encoded, at: Sequence[int], lists: Sequence[Sequence[int]], written: Sequence[Sequence[int]]
    ) -> list[Transcribed]:
        """States `[tokens, hidden]` and attention `[tokens, frames]` of the transcripts `written`, with their ends.

        at, lists: as in `_written`.
        """
        settings, end = self.config.first_pass, self.config.first_pass["end"]
        heard, cache = recordings.rows(at)
        prompts, mask = self._prompts(lists, heard.device)
        width = prompts.shape[1]
        tokens = [torch.tensor(own, dtype=torch.long, device=heard.device) for own in written]
        inputs = torch.cat([prompts, pad_sequence(tokens, batch_first=True, padding_value=end)], 1)
        mask = F.pad(mask, (0, inputs.shape[1] - width), value=1)
        output = self.decoder(
            inputs,
            attention_mask=mask,
            position_ids=_positions(mask),
            encoder_hidden_states=heard,
            past_key_values=cache,
            output_attentions=True,
        )
        heads = [output.cross_attentions[layer][:, head] for layer, head in settings["heads"]]
        attention = torch.stack(heads).float().mean(0)
        places = [slice(width - 1, width + len(own)) for own in tokens]
        states = torch.cat([row[own] for row, own in zip(output.last_hidden_state, places, strict=True)])
        chosen = torch.cat([F.pad(own, (0, 1), value=end) for own in tokens])
        rows = choosing(states, chosen, self.readout(), settings).split([len(own) + 1 for own in tokens])
        return [(row, weights[own]) for row, weights, own in zip(rows, attention, places, strict=True)]

    def _prompt(self, before: Sequence[int]) -> list[int]:
        """The tokens in front of a transcript. before: of a list; () for none."""
        settings = self.config.first_pass
        return [*([settings["previous"], *before] if before else ()), *settings["prompt"]]

    def _prompts(self, lists: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What Whisper reads before it transcribes, `[lists, tokens]`, padded at the left, and its mask."""
        prompts, end = list(map(self._prompt, lists)), self.config.first_pass["end"]
        width = max(map(len, prompts))
        padded = [[end] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(padded, device=device), torch.tensor(mask, device=device)

    def _search(
        self, recordings: Encoded, at: Sequence[int], prompts: torch.Tensor, mask: torch.Tensor, beams: int
    ) -> Step:
        """The function that a beam search calls for each token.

        at: the recording of each list. prompts, mask: `[lists, tokens]`, padded at the left.
        """
        settings, readout = self.config.first_pass, self.readout()
        heard, cache = recordings.rows(at)
        mask = mask.repeat_interleave(beams, 0)

        def step(tokens: torch.Tensor | None, order: torch.Tensor | None) -> torch.Tensor:
            nonlocal mask
            if order is not None:
                cache.self_attention_cache.reorder_cache(order)
                mask = F.pad(mask[order], (0, 1), value=1)
            inputs = prompts.repeat_interleave(beams, 0) if tokens is None else tokens
            states = self.decoder(
                inputs,
                attention_mask=mask,
                position_ids=_positions(mask)[:, -inputs.shape[1] :],
                encoder_hidden_states=heard,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
            logits = written_logits(states[:, -1], readout, settings)
            if tokens is None:
                logits[:, settings["never_first"]] = -torch.inf
            return logits.log_softmax(-1)

        return step


def first_pass_log_mel(
    config: PreTrainedConfig, samples: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features up to the end of the longest window, `[batch, bins, frames]`, and the mask of the recordings in them."""
    longest = (lengths.max() + HOP - 1) // HOP
    return whisper_log_mel(config, samples, lengths, int(_windows(config, longest)))


def _windows(config: PreTrainedConfig, recorded: torch.Tensor) -> torch.Tensor:
    """The windows in which recordings of `recorded` features are heard, in features."""
    return ((recorded + SILENCE + GRID - 1) // GRID * GRID).clamp(SHORTEST, 2 * config.max_source_positions)


def shared_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-attention as transformers' `eager`, in which rows that follow each other share keys and values.

    There is no mask, dropout or scaling, as in that of a Whisper which is not trained.

    query: `[recordings * beams, heads, tokens, width]`, scaled. key, value: `[recordings, heads, frames, width]`. The
    results are `[recordings * beams, tokens, heads, width]` and the weights `[recordings * beams, heads, tokens,
    frames]`.
    """
    beams, tokens = len(query) // len(key), query.shape[2]
    together = query.unflatten(0, (-1, beams)).transpose(1, 2).flatten(2, 3)
    weights = (together @ key.transpose(2, 3)).softmax(-1)
    apart = [x.unflatten(2, (beams, tokens)).transpose(1, 2).flatten(0, 1) for x in (weights @ value, weights)]
    return apart[0].transpose(1, 2).contiguous(), apart[1]


AttentionInterface.register(SHARED, shared_attention)


def _joined(heard: torch.Tensor, states: torch.Tensor, attention: torch.Tensor) -> torch.Tensor:
    """The frames of one recording: the encoder's, `[frames, hidden]`, each with the state of its token."""
    path = monotonic_path(attention[:, : len(heard)].clamp_min(1e-6).log().cpu().numpy())
    return torch.cat([heard, states[torch.from_numpy(path)]], -1)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """The position of each token of `[rows, tokens]` that is padded at the left."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def monotonic_path(scores: np.ndarray) -> np.ndarray:
    """The token of each frame `[frames]` on the best monotonic path that visits each token.

    scores: `[tokens, frames]`, of which the path has the largest sum.

    >>> monotonic_path(np.array([[3, 0, 0, 0], [0, 0, 2, 0], [0, 1, 3, 1]])).tolist()
    [0, 1, 2, 2]
    """
    tokens, frames = scores.shape
    best = np.full(tokens, -np.inf)
    best[0] = scores[0, 0]
    moved = np.zeros((frames, tokens), dtype=bool)
    for frame in range(1, frames):
        before = np.concatenate([[-np.inf], best[:-1]])
        moved[frame] = before > best
        best = np.maximum(before, best) + scores[:, frame]
    path, token = np.zeros(frames, dtype=int), tokens - 1
    for frame in range(frames - 1, -1, -1):
        path[frame] = token
        token -= moved[frame, token]
    return path
