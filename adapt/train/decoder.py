"""Stage 2: LoRA on the decoder, trained on text with pseudo audio in the slot."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import peft
import torch

from adapt.model import adapter
from adapt.model.packing import target_logits
from adapt.model.slot_generator import SlotGenerator
from adapt.model.speech_llm import SpeechLLM
from adapt.ranks import launched
from adapt.recipe.domain import Decoder
from adapt.train.common import (
    Lists,
    PairedAudio,
    TrainingResult,
    best_row,
    by_length,
    check_share,
    draw,
    has_stalled,
    labelled_batches,
    mean_loss,
    mean_over_tokens,
)
from adapt.train.fit import fit, uses_bf16
from adapt.train.pseudo_audio import PseudoAudioInputs, fill_slots
from adapt.train.unit_selection import UnitInventory

CACHED_BYTES = 2**29  # the base's logits on replayed audio are cached if they take no more memory than this

BaseLogits = Callable[[Sequence[int]], torch.Tensor]


def tune_decoder(
    speech_llm: SpeechLLM,
    train: Sequence[str],
    dev: Sequence[str],
    settings: Decoder,
    *,
    soft_prompt: torch.Tensor | None,
    inventory: UnitInventory | None,
    spoken: Mapping[str, torch.Tensor],
    generator: SlotGenerator | None = None,
    lists: Lists | None = None,
    replayed: PairedAudio | None,
    guard: PairedAudio | None,
    folder: Path,
    out: Path,
    name: str,
    seed: int,
    precision: str,
) -> TrainingResult:
    """Train a LoRA of the decoder on the sentences `train`, and write it to `out` as an adapter called `name`.

    dev: sentences. settings: its `pseudo_audio` is a key of PSEUDO_AUDIO, not `auto`. soft_prompt, inventory, spoken,
    generator: inputs of that kind of pseudo audio; None and {} if it has no such input. lists: draws the names in the
    prompt of a sentence of `train`; None: there are none. replayed: source audio for the share `replay` of each batch;
    on it, the KL divergence from the base, with the weight `anchor`, is added to the loss. guard: source audio; None:
    no guard set. The checkpoint with the lowest loss on `dev` is kept, among those that raise the loss on `guard` by at
    most `guard_tolerance`; step 0, the base itself, is one of them. folder: for checkpoints. precision: auto, fp32 or
    bf16.
    """
    check_share(settings.batch_size, "decoder.batch_size")
    has_anchor = bool(replayed and settings.anchor and _replayed_rows(settings, replayed))
    cached = _cached_base_logits(speech_llm, replayed) if has_anchor else None
    torch.manual_seed(seed)
    model = adapter.add_lora(speech_llm, settings.rank, settings.alpha, settings.dropout)
    if settings.activations == "recomputed":
        speech_llm.model.get_decoder().gradient_checkpointing_enable({"use_reentrant": False})
    slots = _slots_per_token(replayed) if replayed else PseudoAudioInputs.slots_per_token
    inputs = PseudoAudioInputs(
        speech_llm, settings.noise, soft_prompt, inventory, settings.misheard, spoken, slots, generator
    )
    base_logits = _base_logits(speech_llm, model, replayed, cached) if has_anchor else None
    evaluate = _evaluation(model, inputs, dev, guard, settings, folder, seed)
    with speech_llm.plain_attention():
        log = fit(
            model,
            _batches(train, replayed, settings, seed),
            _loss(inputs, train, replayed, base_logits, settings, lists),
            steps=settings.steps,
            groups=[{"params": [p for p in model.parameters() if p.requires_grad], "lr": settings.learning_rate}],
            warmup=settings.warmup_steps,
            folder=folder,
            save_every=min(settings.eval_every, settings.steps),
            evaluate=evaluate,
            stop=lambda rows: has_stalled(rows, settings.patience),
            label="decoder",
            shared=True,
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    best = best_row(log, settings.guard_tolerance)
    weights = peft.utils.load_peft_weights(folder / "best", device=str(speech_llm.device))
    peft.set_peft_model_state_dict(model, weights)
    model.eval()
    metadata = {"name": name, "base": speech_llm.name, "pseudo_audio": settings.pseudo_audio, "step": best["step"]}
    if launched().is_first:
        adapter.save_adapter(out, model, metadata, soft_prompt, speech_llm)
    return TrainingResult(log, best["step"])


def _slots_per_token(replayed: PairedAudio) -> float:
    """The mean number of audio embeddings for a token of a transcript, its end of sentence not counted."""
    tokens = sum(len(target) - 1 for target in replayed.targets)
    return sum(map(len, replayed.embeddings)) / max(1, tokens)


def _replayed_rows(settings: Decoder, replayed: PairedAudio | None) -> int:
    """The number of replayed utterances in a batch."""
    return round(settings.batch_size * settings.replay) if replayed else 0


def _batches(train: Sequence[str], replayed: PairedAudio | None, settings: Decoder, seed: int) -> Callable[[int], dict]:
    """The function that returns a batch: indices of sentences and replayed utterances of similar length, and a seed."""
    replayed_rows = _replayed_rows(settings, replayed)
    ordered, replayed_ordered = by_length(train), by_length(replayed.embeddings) if replayed else []

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        place = rng.random()
        rows = draw(rng, ordered, settings.batch_size - replayed_rows, place)
        replayed_indices = draw(rng, replayed_ordered, replayed_rows, place) if replayed_rows else []
        return {
            "rows": torch.tensor(rows),
            "replayed": torch.tensor(replayed_indices, dtype=torch.long),
            "noise": rng.random(),
        }

    return batch_of


def _loss(
    inputs: PseudoAudioInputs,
    train: Sequence[str],
    replayed: PairedAudio | None,
    base_logits: BaseLogits | None,
    settings: Decoder,
    lists: Lists | None,
) -> Callable[[torch.nn.Module, dict], torch.Tensor]:
    """The loss function: the loss of the targets and, with `base_logits`, the divergence on replayed audio."""
    speech_llm = inputs.speech_llm
    targets, ranks = [speech_llm.target_ids(text) for text in train], launched()

    def loss_of(tuned: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows, replayed_indices = batch["rows"].tolist(), batch["replayed"].tolist()
        rng = random.Random(batch["noise"])
        embeddings = fill_slots(settings.pseudo_audio, inputs, [train[i] for i in rows], rng)
        names = [lists(train[i], rng) if lists else () for i in rows] + [()] * len(replayed_indices)
        embeddings += [replayed.embeddings[i] for i in replayed_indices]
        batch_targets = [targets[i] for i in rows] + [replayed.targets[i] for i in replayed_indices]
        mine = (ranks.share(values) for values in (embeddings, batch_targets, names))
        logits, predicted = target_logits(speech_llm, *mine, through=tuned)
        loss = mean_over_tokens(logits, predicted, sum(map(len, batch_targets)))
        replayed_here = [i for i in ranks.share([*[None] * len(rows), *replayed_indices]) if i is not None]
        if replayed_indices and base_logits:
            # Every process makes this pass, also one without a share: a divided base waits for all (`model.shard`).
            base = base_logits(replayed_here or replayed_indices[:1])
            if replayed_here:
                share = ranks.count * len(base) / sum(len(replayed.targets[i]) for i in replayed_indices)
                loss = loss + settings.anchor * share * _divergence(base, logits[-len(base) :])
        return loss

    return loss_of


def _evaluation(
    model: peft.PeftModel,
    inputs: PseudoAudioInputs,
    dev: Sequence[str],
    guard: PairedAudio | None,
    settings: Decoder,
    folder: Path,
    seed: int,
) -> Callable[[int, list[dict]], dict]:
    """The evaluation: losses on `dev`, with the same pseudo audio each time, and on `guard`; saves the best weights."""
    speech_llm = inputs.speech_llm
    dev_targets = [speech_llm.target_ids(text) for text in dev]
    dev_embeddings = fill_slots(settings.pseudo_audio, inputs, dev, random.Random(seed))

    def evaluate(step: int, log: list[dict]) -> dict:
        model.eval()
        row = {"step": step, "dev_loss": mean_loss(speech_llm, dev_embeddings, dev_targets)}
        if guard:
            row["guard_loss"] = mean_loss(speech_llm, guard.embeddings, guard.targets)
        if best_row([*log, row], settings.guard_tolerance) is row and launched().is_first:
            model.save_pretrained(folder / "best")
        model.train()
        return row

    return evaluate


@torch.no_grad()
def _cached_base_logits(speech_llm: SpeechLLM, replayed: PairedAudio) -> list[torch.Tensor] | None:
    """The base's logits `[target tokens, vocabulary]` of each replayed utterance; None if they exceed CACHED_BYTES."""
    width = speech_llm.vocabulary * speech_llm.model.dtype.itemsize
    if width * sum(map(len, replayed.targets)) > CACHED_BYTES:
        return None
    logits_of: dict[int, torch.Tensor] = {}
    for rows, logits, _ in labelled_batches(speech_llm, replayed.embeddings, replayed.targets):
        logits_of |= dict(zip(rows, logits.split([len(replayed.targets[i]) for i in rows]), strict=True))
    return [logits_of[i] for i in range(len(logits_of))]


def _base_logits(
    speech_llm: SpeechLLM, model: peft.PeftModel, replayed: PairedAudio, cached: list[torch.Tensor] | None
) -> BaseLogits:
    """The function that returns the base's logits `[target tokens, vocabulary]` of replayed utterances, by index.

    It uses `cached`; None: the model without its LoRA.
    """

    def logits_of(indices: Sequence[int]) -> torch.Tensor:
        if cached:
            return torch.cat([cached[i] for i in indices])
        embeddings, targets = ([rows[i] for i in indices] for rows in (replayed.embeddings, replayed.targets))
        with torch.no_grad(), model.disable_adapter():
            return target_logits(speech_llm, embeddings, targets, through=model)[0]

    return logits_of


def _divergence(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Mean KL(base || tuned) over rows of logits `[tokens, vocabulary]`, in nats."""
    base, tuned = (x.float().log_softmax(-1) for x in (base, tuned))
    return torch.nn.functional.kl_div(tuned, base, log_target=True, reduction="batchmean")
