"""The two stages: learn the soft prompt with all else frozen; tune the decoder conditioned on pseudo audio."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import peft
import torch

from adapt.model import adapter, prompt
from adapt.model.speech_llm import IGNORED, SpeechLLM, token_loss
from adapt.train.channel import Channel
from adapt.train.fit import fit, uses_bf16
from adapt.train.pseudo_audio import Source, slots

KEPT = 2**29  # bytes of what the base says of replayed audio that are kept, so that it says so once


@dataclass(frozen=True)
class Replay:
    """Paired audio of the source domain: slot vectors `[slots, hidden]` and target ids of each utterance."""

    slots: Sequence[torch.Tensor]
    targets: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Tuned:
    """What a stage came to. log: a row a report, `{"step", "loss"}` or `{"step", "dev_loss", "guard_loss"}`.

    best_step: the step whose weights were kept; 0 is the untrained start.
    """

    log: list[dict]
    best_step: int


def by_length(rows: Sequence[Sequence]) -> list[int]:
    """Places of the rows, the shortest first."""
    return sorted(range(len(rows)), key=lambda i: len(rows[i]))


def draw(rng: random.Random, ordered: Sequence[int], count: int, place: float) -> list[int]:
    """`count` of the rows that stand near `place` (0 to 1) in `ordered`: rows of like length need little padding."""
    reach = min(len(ordered), max(count, len(ordered) // 12))
    start = round(place * (len(ordered) - reach))
    return rng.choices(ordered[start : start + reach], k=count)


def _said(
    speech_llm: SpeechLLM,
    slot_rows: Sequence[torch.Tensor | None],
    targets: Sequence[Sequence[int]],
    batch_size: int = 50,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """All rows in batches of like length: their places, and logits and labels as `token_loss` takes them."""
    order = by_length(targets)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = speech_llm.training_batch([slot_rows[i] for i in rows], [targets[i] for i in rows])
        yield rows, *speech_llm.labelled(*batch)


@torch.no_grad()
def mean_loss(
    speech_llm: SpeechLLM, slot_rows: Sequence[torch.Tensor | None], targets: Sequence[Sequence[int]]
) -> float:
    """Mean loss per target token over all rows, in nats."""
    total = tokens = 0.0
    for _, logits, labels in _said(speech_llm, slot_rows, targets):
        count = int((labels != IGNORED).sum())
        total, tokens = total + token_loss(logits, labels).item() * count, tokens + count
    return total / tokens


@torch.no_grad()
def _said_by_base(speech_llm: SpeechLLM, replayed: Replay) -> list[torch.Tensor] | None:
    """Logits `[target tokens, vocabulary]` of each replayed utterance; None where they would be more than KEPT."""
    width = speech_llm.vocabulary * speech_llm.model.dtype.itemsize
    if width * sum(map(len, replayed.targets)) > KEPT:
        return None
    found: dict[int, torch.Tensor] = {}
    for rows, logits, labels in _said(speech_llm, replayed.slots, replayed.targets):
        counts = [len(replayed.targets[i]) for i in rows]
        found |= dict(zip(rows, _at_labels(logits, labels).split(counts), strict=True))
    return [found[i] for i in range(len(found))]


def best_row(log: Sequence[dict], guard_tolerance: float = float("inf")) -> dict:
    """The evaluation with the lowest development loss of those whose guard loss rose at most by the tolerance.

    >>> log = [{"step": 0, "dev_loss": 3.0, "guard_loss": 1.0}, {"step": 5, "dev_loss": 2.0, "guard_loss": 1.2}]
    >>> best_row(log)["step"], best_row(log, guard_tolerance=0.1)["step"]
    (5, 0)
    """
    rows = [row for row in log if "dev_loss" in row]
    guard = rows[0].get("guard_loss")
    if guard is not None:
        rows = [row for row in rows if row["guard_loss"] <= guard * (1 + guard_tolerance)]
    return min(rows, key=lambda row: row["dev_loss"])


def _has_stalled(log: Sequence[dict], patience: int) -> bool:
    rows = [row for row in log if "dev_loss" in row]
    best = min(range(len(rows)), key=lambda i: rows[i]["dev_loss"])
    return len(rows) - 1 - best >= patience


class _SoftPrompt(torch.nn.Module):
    def __init__(self, vectors: torch.Tensor):
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)


def learn_prompt(
    speech_llm: SpeechLLM,
    train: Sequence[str],
    dev: Sequence[str],
    *,
    examples: Sequence[torch.Tensor],
    folder: Path,
    out: Path,
    length: int,
    init: str,
    steps: int,
    batch_size: int,
    learning_rate: float,
    eval_every: int,
    seed: int,
    precision: str,
) -> Tuned:
    """Stage 1: `length` vectors in the slot learn the domain text; the model is frozen. Writes them to `out`.

    `examples` are slot vectors of real audio to start from. The vectors with the lowest loss on `dev` are kept.
    """
    speech_llm.model.requires_grad_(False).eval()
    torch.manual_seed(seed)
    start = prompt.initial(init, length, examples, speech_llm).float()
    module = _SoftPrompt(start)
    targets, dev_targets = ([speech_llm.target_ids(t) for t in texts] for texts in (train, dev))
    ordered = by_length(targets)

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        return {"rows": torch.tensor(draw(rng, ordered, batch_size, rng.random()))}

    def loss_of(model: _SoftPrompt, batch: dict) -> torch.Tensor:
        rows = batch["rows"].tolist()
        vectors = next(model.parameters())
        embeds, mask, labels = speech_llm.training_batch([vectors] * len(rows), [targets[i] for i in rows])
        return token_loss(*speech_llm.labelled(embeds, mask, labels))

    def evaluate(step: int, log: list[dict]) -> dict:
        row = {"step": step, "dev_loss": mean_loss(speech_llm, [module.vectors] * len(dev), dev_targets)}
        if best_row([*log, row]) is row:
            prompt.save(folder / "best.safetensors", module.vectors)
        return row

    with speech_llm.plain_attention():
        log = fit(
            module,
            batch_of,
            loss_of,
            steps=steps,
            groups=[{"params": [module.vectors], "lr": learning_rate}],
            warmup=min(20, steps // 5),
            folder=folder,
            save_every=min(eval_every, steps),
            evaluate=evaluate,
            label="prompt",
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "best.safetensors", out)
    return Tuned(log, best_row(log)["step"])


def tune_decoder(
    speech_llm: SpeechLLM,
    train: Sequence[str],
    dev: Sequence[str],
    *,
    soft_prompt: torch.Tensor | None,
    channel: Channel | None,
    replayed: Replay | None,
    guard: Replay | None,
    folder: Path,
    out: Path,
    name: str,
    pseudo_audio: str,
    noise: float,
    steps: int,
    batch_size: int,
    learning_rate: float,
    warmup_steps: int,
    rank: int,
    alpha: int,
    dropout: float,
    replay: float,
    anchor: float,
    activations: str,
    eval_every: int,
    patience: int,
    guard_tolerance: float,
    seed: int,
    precision: str,
) -> Tuned:
    """Stage 2: LoRA on the decoder, the text as target, pseudo audio in the slot. Writes an adapter to `out`.

    A share `replay` of each batch is source audio with its transcript, on which the decoder is also held to
    the base's own output distribution (KL divergence, weight `anchor`). The checkpoint with the lowest loss on
    `dev` is kept, of those whose loss on `guard` (source audio) rose by at most `guard_tolerance`; step 0, the
    base itself, is one of them. activations: `kept`, or `recomputed` in the backward pass.
    """
    replay_rows = round(batch_size * replay) if replayed else 0
    base_said = _said_by_base(speech_llm, replayed) if replay_rows and anchor else None
    torch.manual_seed(seed)
    model = adapter.add_lora(speech_llm, rank, alpha, dropout)
    if activations == "recomputed":
        speech_llm.model.get_decoder().gradient_checkpointing_enable({"use_reentrant": False})
    source = Source(speech_llm, soft_prompt, noise, channel)
    targets, dev_targets = ([speech_llm.target_ids(t) for t in texts] for texts in (train, dev))
    ordered, again_ordered = by_length(train), by_length(replayed.slots) if replayed else []

    def batch_of(step: int) -> dict:
        rng = random.Random(seed * 1_000_003 + step)
        place = rng.random()
        rows = draw(rng, ordered, batch_size - replay_rows, place)
        again = draw(rng, again_ordered, replay_rows, place) if replay_rows else []
        return {
            "rows": torch.tensor(rows),
            "again": torch.tensor(again, dtype=torch.long),
            "noise": rng.random(),
        }

    def loss_of(tuned: torch.nn.Module, batch: dict) -> torch.Tensor:
        rows, again = batch["rows"].tolist(), batch["again"].tolist()
        rng = random.Random(batch["noise"])
        in_slot = slots(pseudo_audio, source, [train[i] for i in rows], rng)
        in_slot += [replayed.slots[i] for i in again]
        wanted = [targets[i] for i in rows] + [replayed.targets[i] for i in again]
        embeds, mask, labels = speech_llm.training_batch(in_slot, wanted)
        logits, said = speech_llm.labelled(embeds, mask, labels, through=tuned)
        loss = token_loss(logits, said)
        if again and anchor:
            kept = len(rows)
            if base_said:
                base = torch.cat([base_said[i] for i in again])
            else:
                with torch.no_grad(), model.disable_adapter():
                    base = speech_llm.forward(embeds[kept:], mask[kept:], keep=logits.shape[1], through=model)
                base = _at_labels(base, said[kept:])
            loss = loss + anchor * _divergence(base, _at_labels(logits[kept:], said[kept:]))
        return loss

    dev_slots = slots(pseudo_audio, source, dev, random.Random(seed))

    def evaluate(step: int, log: list[dict]) -> dict:
        model.eval()
        row = {"step": step, "dev_loss": mean_loss(speech_llm, dev_slots, dev_targets)}
        if guard:
            row["guard_loss"] = mean_loss(speech_llm, guard.slots, guard.targets)
        if best_row([*log, row], guard_tolerance) is row:
            model.save_pretrained(folder / "best")
        model.train()
        return row

    with speech_llm.plain_attention():
        log = fit(
            model,
            batch_of,
            loss_of,
            steps=steps,
            groups=[{"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}],
            warmup=warmup_steps,
            folder=folder,
            save_every=min(eval_every, steps),
            evaluate=evaluate,
            stop=lambda rows: _has_stalled(rows, patience),
            label="decoder",
            seed=seed,
            bf16=uses_bf16(precision, speech_llm.device),
        )
    best = best_row(log, guard_tolerance)
    weights = peft.utils.load_peft_weights(folder / "best", device=str(speech_llm.device))
    peft.set_peft_model_state_dict(model, weights)
    model.eval()
    metadata = {"name": name, "base": speech_llm.name, "pseudo_audio": pseudo_audio, "step": best["step"]}
    adapter.save(out, model, metadata, soft_prompt, speech_llm)
    return Tuned(log, best["step"])


def _at_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Those of `logits [batch, length, vocabulary]` that predict a label: `[tokens, vocabulary]`."""
    return logits[:, :-1][labels[:, 1:] != IGNORED]


def _divergence(base: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Mean KL(base || tuned) over rows of logits `[tokens, vocabulary]`, in nats."""
    base, tuned = (x.float().log_softmax(-1) for x in (base, tuned))
    return torch.nn.functional.kl_div(tuned, base, log_target=True, reduction="batchmean")
