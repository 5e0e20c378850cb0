"""The stages that build a speech LLM from parts: encoder (CTC), decoder (language model, read), align."""

from __future__ import annotations

import logging
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from rapidfuzz.distance import Levenshtein

from adapt.model.adapter import linear_layers
from adapt.model.encoders import CtcEncoder
from adapt.model.speech_llm import BLANK, IGNORED, SpeechLLM, paths, token_loss
from adapt.train.channel import Channel, learn
from adapt.train.fit import fit
from adapt.train.perturb import perturbed
from adapt.train.pseudo_audio import Source, simulated_ids, simulated_path, symbol_ids
from adapt.train.speech import Speech, Spoken, batches
from adapt.train.stages import mean_loss

log = logging.getLogger(__name__)


def ctc_ids(text: str, alphabet: str) -> list[int]:
    """Places of the characters of `text` in `alphabet`; those that it does not hold are left out."""
    return [place for character in text if (place := alphabet.find(character)) >= 0]


def padded(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def ctc_loss(logits: torch.Tensor, lengths: torch.Tensor, targets: Sequence[Sequence[int]], blank: int) -> torch.Tensor:
    """CTC of `logits [batch, frames, symbols]`: nats per target symbol, mean over the batch (Graves 2006).

    What is too long for its frames counts nothing.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    counts = torch.tensor([len(row) for row in targets])
    return F.ctc_loss(
        log_probs, padded(targets, blank).to(logits.device), lengths, counts, blank=blank, zero_infinity=True
    )


def greedy(path: str) -> str:
    """The text of a path: repeats merged, blanks dropped.

    >>> greedy("aa_ab_  ")
    'aab'
    """
    merged = "".join(symbol for i, symbol in enumerate(path) if i == 0 or symbol != path[i - 1])
    return " ".join(merged.replace(BLANK, "").split())


@torch.no_grad()
def ctc_texts(encoder: CtcEncoder, speech: Speech) -> tuple[list[str], list[str]]:
    """References and greedy CTC hypotheses of every recording."""
    references, hypotheses = [], []
    for items, samples, lengths in speech.in_order():
        frames, counts = encoder.frames(*encoder.inputs(samples.to(encoder.device), lengths.to(encoder.device)))
        hypotheses += map(greedy, paths(encoder, frames, counts))
        references += [item.text for item in items]
    return references, hypotheses


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """(S + D + I) / N over all utterances."""
    errors = words = 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        errors += Levenshtein.distance(reference.split(), hypothesis.split())
        words += len(reference.split())
    return errors / words


def _readable(draw: Callable[[int], list[Spoken]], speech: Speech, step: int) -> tuple[list[Spoken], dict]:
    """The recordings of batch `step` and their audio; of another batch when none of them can be read."""
    for attempt in range(100):
        items, samples, lengths = speech.audio(draw(step + attempt * 1_000_000_007))
        if items:
            return items, {"samples": samples, "lengths": lengths}
    raise AssertionError("unreachable: speech.audio raises once more files are bad than may be")


def train_encoder(
    encoder: CtcEncoder,
    speech: Speech,
    dev: Speech,
    *,
    steps: int,
    batch_seconds: float,
    learning_rate: float,
    warmup_steps: int,
    temperature: float,
    short: float,
    running: float,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """CTC over characters, of what in `encoder` requires a gradient.

    `short`: in this first share of the steps come the short recordings; character targets leave the plateau of blanks
    soonest on those. `running`: in this last share batch normalisation takes the running statistics, as in inference,
    not those of the batch.

    Every tenth of the way the WER of the greedy path on `dev` is logged.
    """
    draw = batches(speech, steps=steps, batch_seconds=batch_seconds, temperature=temperature, short=short, seed=seed)
    alphabet, save_every = encoder.config.alphabet, max(1, steps // 20)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    trained = any(parameter.requires_grad for parameter in encoder.encoder.parameters())

    def batch_of(step: int) -> dict:
        items, batch = _readable(draw, speech, step)
        return {**batch, "targets": [ctc_ids(item.text, alphabet) for item in items], "step": step}

    def loss_of(encoder: CtcEncoder, batch: dict) -> torch.Tensor:
        encoder.encoder.train(trained)
        for norm in norms:
            norm.train(trained and batch["step"] < (1 - running) * steps)
        inputs, mask = perturbed(encoder, batch["samples"], batch["lengths"], seed=batch["step"])
        return ctc_loss(*encoder(inputs, mask), batch["targets"], len(alphabet))

    def evaluate(step: int, history: list[dict]) -> dict:
        if step == 0 or step % (2 * save_every):
            return {}
        encoder.eval()
        references, hypotheses = ctc_texts(encoder, dev)
        encoder.train()
        if not any(hypotheses) and step > 0.3 * steps:
            log.warning(
                "encoder: step %d of %d, and nothing but blanks is heard; usual causes: too few steps, transcripts "
                "that are not of their audio, or fewer frames a second than characters",
                step,
                steps,
            )
        return {"wer": round(word_error_rate(references, hypotheses), 4)}

    return fit(
        encoder,
        batch_of,
        loss_of,
        steps=steps,
        groups=[{"params": [p for p in encoder.parameters() if p.requires_grad], "lr": learning_rate}],
        warmup=warmup_steps,
        folder=folder,
        save_every=save_every,
        evaluate=evaluate,
        label="encoder",
        seed=seed,
        bf16=bf16,
        weight_decay=0.01,
        workers=workers,
    )


def text_batches(targets: Sequence[Sequence[int]], *, batch_size: int, seed: int = 1) -> Callable[[int], list[int]]:
    """Indices of targets of like length, a batch a step; every target once before any twice."""
    order = sorted(range(len(targets)), key=lambda i: len(targets[i]))
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]

    def batch_of(step: int) -> list[int]:
        epoch, place = divmod(step, len(groups))
        shuffled = list(range(len(groups)))
        random.Random(seed * 7919 + epoch).shuffle(shuffled)
        return groups[shuffled[place]]

    return batch_of


def heard_behind(path: str, text: str, ends: Sequence[int]) -> list[int]:
    """The frame of a CTC path of `text` in which the letter behind its first `end` letters begins, for each of `ends`.

    The length of the path where nothing is heard behind them. Path and text are aligned by edit distance.

    >>> heard_behind("hhe_y_  yyo__", "hey you", [3, 7])
    [6, 13]
    """
    starts = [i for i, symbol in enumerate(path) if symbol != BLANK and (i == 0 or symbol != path[i - 1])]
    stretches = Levenshtein.opcodes(text, "".join(path[i] for i in starts))
    places = []
    for end in ends:
        stretch = next(found for found in stretches if end <= found.src_end)
        places.append(min(stretch.dest_start + end - stretch.src_start, stretch.dest_end))
    return [[*starts, len(path)][place] for place in places]


def train_decoder(
    speech_llm: SpeechLLM,
    texts: Sequence[str],
    dev: Sequence[str],
    *,
    reads: bool,
    steps: int,
    batch_size: int,
    learning_rate: float,
    folder: Path,
    seed: int,
    bf16: bool,
    noise: float = 0.12,
    workers: int = 0,
) -> list[dict]:
    """The decoder alone, on text: a language model with an empty slot, or one that `reads` its slot.

    To read, it sees each sentence in its slot spelled letter by letter with noise, the shortest sentences first. In
    the slot too it has a loss: a piece is to be known by the first letter behind it. The loss behind the slot stands
    still for some hundreds of steps and then breaks, sooner so.
    """
    targets = [speech_llm.target_ids(text) for text in texts]
    dev_targets = [speech_llm.target_ids(text) for text in dev]
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    each_once = text_batches(targets, batch_size=batch_size, seed=seed)
    decoder, source = speech_llm.model.language_model, Source(speech_llm, None, noise)
    symbols = symbol_ids(speech_llm) if reads else {}

    def spelled(i: int, rng: random.Random) -> tuple[list[int], list[int]]:
        """A prompt with sentence `i` in its slot, and its labels."""
        text = texts[i]
        path = simulated_path(source, text, rng)
        written = speech_llm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places = heard_behind(path, text, [end for _, end in written["offset_mapping"]])
        known = {place + 1: piece for place, piece in zip(places, written["input_ids"], strict=True)}
        ids = [*(symbols[c] for c in path), *speech_llm.after]
        labels = [known.get(place, IGNORED) for place in range(len(ids))]
        return [*speech_llm.before, *ids], [IGNORED] * len(speech_llm.before) + labels

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        if reads:
            reach = int(len(texts) * min(1.0, 0.2 + 2 * step / steps))
            start = rng.randint(0, max(0, reach - batch_size))
            rows = by_length[start : start + batch_size]
        else:
            rows = each_once(step)
        empty = [*speech_llm.before, *speech_llm.after]
        prompts = [spelled(i, rng) if reads else (empty, [IGNORED] * len(empty)) for i in rows]
        ids = [prompt + targets[i] for (prompt, _), i in zip(prompts, rows, strict=True)]
        labels = [known + targets[i] for (_, known), i in zip(prompts, rows, strict=True)]
        mask = padded([[1] * len(row) for row in ids], 0)
        return {"input_ids": padded(ids, 0), "attention_mask": mask, "labels": padded(labels, IGNORED)}

    def loss_of(model: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows = speech_llm.rows(batch["input_ids"])
        return token_loss(*speech_llm.labelled(rows, batch["attention_mask"], batch["labels"], through=model))

    def evaluate(step: int, history: list[dict]) -> dict:
        decoder.eval()
        rng = random.Random(0)
        in_slot = [speech_llm.embed(simulated_ids(source, text, rng) if reads else []) for text in dev]
        loss = mean_loss(speech_llm, in_slot, dev_targets)
        decoder.train()
        return {"dev_loss": loss}

    with speech_llm.plain_attention():
        return fit(
            decoder,
            batch_of,
            loss_of,
            steps=steps,
            groups=[{"params": list(decoder.parameters()), "lr": learning_rate}],
            warmup=min(100, steps // 10),
            folder=folder,
            save_every=max(1, steps // 20),
            evaluate=evaluate,
            label="read" if reads else "lm",
            seed=seed,
            bf16=bf16,
            weight_decay=0.01,
            workers=workers,
        )


@torch.no_grad()
def frame_channel(speech_llm: SpeechLLM, speech: Speech, recordings: int, seed: int) -> Channel:
    """What the encoder hears for each letter, learned from so many perturbed recordings; its slots are frames."""
    encoder = speech_llm.model.encoder.eval()
    chosen = sorted(random.Random(seed).sample(speech.items, min(recordings, len(speech.items))))

    def heard() -> Iterator[tuple[str, str, torch.Tensor]]:
        for number, (items, samples, lengths) in enumerate(Speech(chosen, speech.max_bad, speech.bad).in_order()):
            inputs, mask = perturbed(encoder, samples.to(encoder.device), lengths.to(encoder.device), seed=number)
            frames, counts = encoder.frames(inputs, mask)
            rows = (row[:count].clone() for row, count in zip(frames.cpu(), counts.tolist(), strict=True))
            said = ["".join(c for c in item.text if c in encoder.config.alphabet) for item in items]
            yield from zip(paths(encoder, frames, counts), said, rows, strict=True)

    return learn(heard())


class Slots:
    """A batch's slots as an explicit alignment loss sees them.

    vectors: `[batch, slots, hidden]`, in float32. lengths: how many of them count, `[batch]`. targets: token ids of
    each transcript. logits: CTC logits of the encoder's frames, `[batch, frames, characters + 1]`.
    """

    def __init__(self, speech_llm: SpeechLLM, vectors: torch.Tensor, lengths: torch.Tensor, targets, logits):
        self.speech_llm, self.vectors, self.lengths = speech_llm, vectors.float(), lengths
        self.targets, self.logits = targets, logits
        self.table = speech_llm.model.get_input_embeddings().weight.detach().float()
        self.inside = torch.arange(vectors.shape[1], device=vectors.device)[None] < lengths[:, None]


def _letters(slots: Slots) -> torch.Tensor:
    """Mean squared distance to the embeddings of the letters that the CTC head hears, weighted by their posteriors.

    In units of the mean square of a letter's embedding.
    """
    symbols, stack = symbol_ids(slots.speech_llm), slots.speech_llm.model.config.stack
    alphabet = slots.speech_llm.model.config.alphabet
    table = slots.table[[symbols[c] for c in [*alphabet, BLANK]]]
    heard = slots.logits.detach().float().softmax(-1) @ table
    heard = F.pad(heard, (0, 0, 0, -heard.shape[1] % stack)).unflatten(1, (-1, stack)).mean(2)
    distance = (slots.vectors - heard).square().sum(-1)[slots.inside].mean()
    return distance / table.square().sum(-1).mean()


def _cosine(slots: Slots) -> torch.Tensor:
    """1 - cosine between each slot vector and the token that stands at its share of the transcript."""
    wanted = torch.zeros_like(slots.inside, dtype=torch.long)
    for row, target, length in zip(wanted, slots.targets, slots.lengths.tolist(), strict=True):
        places = torch.arange(length, device=row.device) * len(target) // length
        row[:length] = torch.tensor(target, device=row.device)[places]
    return (1 - F.cosine_similarity(slots.vectors, slots.table[wanted], dim=-1))[slots.inside].mean()


def _token_ctc(slots: Slots) -> torch.Tensor:
    """CTC over tokens, with ten times the cosine to a token's embedding as its logit, and padding as the blank."""
    logits = 10 * F.normalize(slots.vectors, dim=-1) @ F.normalize(slots.table, dim=-1).T
    tokens = [target[:-1] for target in slots.targets]  # the end of sentence may be the padding too
    return ctc_loss(logits, slots.lengths, tokens, slots.speech_llm.tokenizer.pad_token_id)


# What ties slot vectors to token embeddings beside the transcript's own loss.
EXPLICIT: dict[str, Callable[[Slots], torch.Tensor] | None] = {
    "none": None,
    "letters": _letters,
    "cosine": _cosine,
    "ctc": _token_ctc,
}


@dataclass(frozen=True)
class AlignSettings:
    """How `align` goes on. Rates are peaks; shares are of the steps or of the batch.

    `decoder`: frozen, lora (rank `rank`, scale `alpha` / rank, on the layers of attention), or full. `encoder_from`
    and `decoder_from`: after which share of the steps each joins the projector; 1 is never. `played`: to each batch of
    audio come so many times as many texts, in frames pieced together from `recordings` perturbed recordings
    (`channel`), so that the decoder goes on reading what text-only adaptation will show it, and meets more sentences
    than are spoken. `letters`: weight of the encoder's CTC loss, once it joins. `explicit`: one of EXPLICIT, with its
    weight.
    """

    steps: int
    batch_seconds: float
    projector_rate: float = 2e-3
    encoder_rate: float = 4e-4
    decoder_rate: float = 3e-4
    decoder: str = "full"
    rank: int = 16
    alpha: int = 32
    encoder_from: float = 1.0
    decoder_from: float = 0.2
    played: float = 1.0
    recordings: int = 2_000
    letters: float = 0.3
    explicit: str = "letters"
    explicit_weight: float = 1.0
    temperature: float = 1.0


def align(
    speech_llm: SpeechLLM,
    speech: Speech,
    dev: Speech,
    texts: Sequence[str],
    settings: AlignSettings,
    *,
    folder: Path,
    seed: int,
    bf16: bool,
    workers: int = 0,
) -> list[dict]:
    """Teach the projector to speak the language that the decoder reads, then encoder and decoder beside it.

    The model is changed in place; LoRA is merged into it at the end. Every tenth of the way `dev_loss` is logged, and
    `other_loss`, that of the same transcripts with the next recording in the slot: a decoder that does not look at its
    slot has the two alike.
    """
    model, encoder = speech_llm.model, speech_llm.model.encoder
    alphabet = encoder.config.alphabet
    draw = batches(
        speech,
        steps=settings.steps,
        batch_seconds=settings.batch_seconds,
        temperature=settings.temperature,
        short=0.2,
        seed=seed,
    )
    channel = frame_channel(speech_llm, speech, settings.recordings, seed) if settings.played else None
    explicit = EXPLICIT[settings.explicit]
    by_length = sorted(texts, key=len)
    tuner = None
    if settings.decoder == "lora":
        layers = linear_layers(model.language_model, "language_model", attention=True)
        tuner = LoraModel(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers), "align")
    tuned = {
        "full": list(model.language_model.parameters()),
        "lora": [p for p in model.language_model.parameters() if p.requires_grad],
        "frozen": [],
    }[settings.decoder]
    model.requires_grad_(False)
    model.projector.requires_grad_(True)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 3_000_017 + step)
        items, batch = _readable(draw, speech, step)
        said = [item.text for item in items]
        # As long as what is said, or they would all be padded to the longest.
        first = bisect_left(by_length, min(map(len, said)), key=len)
        last = bisect_right(by_length, max(map(len, said)), key=len)
        count = round(len(items) * settings.played) if last > first else 0
        written = [by_length[rng.randrange(first, last)] for _ in range(count)]
        return {
            **batch,
            "letters": [ctc_ids(text, alphabet) for text in said],
            "targets": [speech_llm.target_ids(text) for text in [*said, *written]],
            "played": [channel.play(text, rng) for text in written],
            "step": step,
        }

    def loss_of(_: torch.nn.Module, batch: dict) -> torch.Tensor:
        step, stack = batch["step"], model.config.stack
        joint = step >= settings.encoder_from * settings.steps
        encoder.train(joint)
        encoder.requires_grad_(joint)
        model.language_model.train(bool(tuned))
        for parameter in tuned:
            parameter.requires_grad_(step >= settings.decoder_from * settings.steps)
        inputs, mask = perturbed(encoder, batch["samples"], batch["lengths"], seed=seed * 3_000_017 + step)
        frames, spoken = encoder.frames(inputs, mask)
        rows = [row[:n].float() for row, n in zip(frames, spoken.tolist(), strict=True)]
        rows += [row.to(frames.device) for row in batch["played"]]
        lengths = torch.tensor([len(row) for row in rows], device=frames.device)
        frames = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        vectors, slots = model.projector(frames), -(-lengths // stack)
        in_slot = [row[:n] for row, n in zip(vectors, slots.tolist(), strict=True)]
        embeds, places, labels = speech_llm.training_batch(in_slot, batch["targets"])
        loss = token_loss(*speech_llm.labelled(embeds, places, labels))
        logits = encoder.ctc(frames) if joint or explicit else None
        if joint:
            loss = loss + settings.letters * ctc_loss(logits[: len(spoken)], spoken, batch["letters"], len(alphabet))
        if explicit:
            seen = Slots(speech_llm, vectors, slots, batch["targets"], logits)
            loss = loss + settings.explicit_weight * explicit(seen)
        return loss

    def evaluate(step: int, history: list[dict]) -> dict:
        if step % max(1, settings.steps // 10):
            return {}
        model.eval()
        slots, targets = [], []
        for items, samples, lengths in dev.in_order():
            with torch.no_grad():
                slots += model.get_audio_features(*encoder.inputs(samples.to(model.device), lengths.to(model.device)))
            targets += [speech_llm.target_ids(item.text) for item in items]
        own, other = mean_loss(speech_llm, slots, targets), mean_loss(speech_llm, [*slots[1:], slots[0]], targets)
        model.train()
        if step > 0.4 * settings.steps and other - own < 0.05:
            log.warning(
                "align: step %d of %d, and the decoder does not look at the audio (loss %.2f, with other audio %.2f); "
                "usual causes: an encoder that hears nothing yet, or a decoder too small to read its slot untaught "
                "(llm.read_steps)",
                step,
                settings.steps,
                own,
                other,
            )
        return {"dev_loss": own, "other_loss": other}

    parts = {"projector": settings.projector_rate, "encoder": settings.encoder_rate}
    groups = [{"params": list(getattr(model, part).parameters()), "lr": rate} for part, rate in parts.items()]
    groups += [{"params": tuned, "lr": settings.decoder_rate}] if tuned else []
    with speech_llm.plain_attention():
        history = fit(
            model,
            batch_of,
            loss_of,
            steps=settings.steps,
            groups=groups,
            warmup=min(50, settings.steps // 10),
            folder=folder,
            save_every=max(1, settings.steps // 20),
            evaluate=evaluate,
            label="align",
            seed=seed,
            bf16=bf16,
            weight_decay=0.01,
            workers=workers,
        )
    if tuner:
        tuner.merge_and_unload()
    return history
