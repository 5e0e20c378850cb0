"""Training of soft prompt and LoRA beside the plain way: Trainer of transformers with PEFT, on padded batches.

A decoder of the shape of Llama, 512 wide with 8 layers; sentences of 10 tokens, or of 3 to 17, after a prompt of 70; 32
in a batch. Both ways have the same weights, batches, optimiser and precision, and so the same losses.
"""

from __future__ import annotations

import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from roofline import counted, matmul_gflops, operations

PROMPT, VIRTUAL, BATCH, STEPS = 70, 60, 32, 20
RATE = 1e-3
LAYERS = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]  # of Llama


def _decoder():
    """A speech LLM whose decoder has random weights."""
    import torch
    import transformers

    from adapt.model.composed import ComposedConfig, ComposedForSpeechRecognition
    from adapt.model.load import load_speech_llm
    from adapt.model.speech_llm import SpeechLLM

    torch.manual_seed(1)
    tiny = load_speech_llm("tiny", "cpu")
    text = transformers.LlamaConfig(
        vocab_size=8_000,
        hidden_size=512,
        intermediate_size=1_376,
        num_hidden_layers=8,
        num_attention_heads=8,
        tie_word_embeddings=True,
    )
    config = ComposedConfig(text_config=text, audio_config=tiny.model.config.audio_config, audio_token_id=9_000)
    model = ComposedForSpeechRecognition(config).requires_grad_(False).eval()
    return SpeechLLM("benchmark", model, tiny.tokenizer, [], list(range(100, 100 + PROMPT - VIRTUAL)), [2], 30.0)


def _batches(shortest: int, longest: int) -> list[list[list[int]]]:
    """Token ids of the sentences of each batch."""
    rng = random.Random(1)
    lengths = [[rng.randint(shortest, longest) for _ in range(BATCH)] for _ in range(STEPS)]
    return [[[rng.randrange(3, 8_000) for _ in range(n)] for n in batch] for batch in lengths]


def ours(llm, module, through, slots: Callable[[int], list], batches) -> Callable[[], list[float]]:
    """Trains `module` as the stages do; returns the losses. slots: those of the rows of a batch, by its number."""
    import torch

    from adapt.model.packing import target_logits
    from adapt.model.speech_llm import token_loss
    from adapt.train.fit import fit

    def loss_of(model, batch):
        step = int(batch["step"])
        return token_loss(*target_logits(llm, slots(step), batches[step], through=through))

    def work() -> list[float]:
        with llm.plain_attention(), tempfile.TemporaryDirectory() as folder:
            log = fit(
                module,
                lambda step: {"step": torch.tensor(step)},
                loss_of,
                steps=len(batches),
                groups=[{"params": [p for p in module.parameters() if p.requires_grad], "lr": RATE}],
                warmup=1,
                folder=Path(folder),
                save_every=len(batches),
            )
        return [row["loss"] for row in log if "loss" in row]

    return work


def plain(model, rows: list[dict], steps: int) -> Callable[[], list[float]]:
    """Trains a model of PEFT by Trainer on padded batches; returns the losses.

    rows: of all batches; `input_ids` or `inputs_embeds` (`[length, hidden]`), and `labels`.
    """
    import torch
    import transformers
    from torch.nn.utils.rnn import pad_sequence

    from adapt.train.fit import warmup_cosine

    def collate(items: list[dict]) -> dict:
        columns = {
            key: pad_sequence([torch.as_tensor(item[key]) for item in items], True, -100 if key == "labels" else 0)
            for key in items[0]
        }
        lengths = torch.tensor([len(item["labels"]) for item in items])
        mask = torch.arange(columns["labels"].shape[1])[None] < lengths[:, None]
        return {**columns, "attention_mask": mask.long()}

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_):
            return torch.utils.data.SequentialSampler(self.train_dataset)

    def work() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder,
                max_steps=steps,
                per_device_train_batch_size=BATCH,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                dataloader_pin_memory=False,
            )
            optimizer = torch.optim.AdamW(
                [p for p in model.parameters() if p.requires_grad], lr=RATE, betas=(0.9, 0.98), weight_decay=0.0
            )
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(steps, 1))
            trainer = InOrder(
                model,
                arguments,
                data_collator=collate,
                train_dataset=rows,
                optimizers=(optimizer, schedule),
            )
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        return [row["loss"] for row in trainer.state.log_history if "loss" in row]

    return work


def _rows(prompt: list[int], batches) -> list[dict]:
    """The rows of `plain` of token ids."""
    return [
        {"input_ids": [*prompt, *text], "labels": [-100] * len(prompt) + text} for batch in batches for text in batch
    ]


def compared(name: str, ways: Callable[[], tuple], batches, repetitions: int = 3) -> dict:
    """The row of a benchmark.

    ways: returns the speech LLM and the two trainings, `ours` and `plain`, anew, with the weights that both begin with.
    """
    times: tuple[list[float], list[float]] = [], []
    losses, multiplying = [[], []], []
    texts = [text for batch in batches for text in batch]
    for _ in range(repetitions):
        llm, *works = ways()
        multiplying.append(matmul_gflops())
        with counted(llm) as tokens:  # the plain way has a copy of the decoder
            for i, work in enumerate(works):
                start = time.perf_counter()
                losses[i] = work()
                times[i].append(time.perf_counter() - start)
        done = operations(llm, tokens.computed, sum(map(len, texts)))
    ours_s, plain_s = map(statistics.median, times)
    gflops, best = done / ours_s / 1e9, statistics.median(multiplying)
    return {
        "name": name,
        "ours_tokens_per_s": sum(map(len, texts)) / ours_s,
        "plain_tokens_per_s": sum(map(len, texts)) / plain_s,
        "ours_s": ours_s,
        "plain_s": plain_s,
        "ratio": ours_s / plain_s,
        "times_faster": plain_s / ours_s,
        "mean_loss_difference": abs(statistics.mean(losses[0]) - statistics.mean(losses[1])),
        "gflops": gflops,
        "matmul_gflops": best,
        "share": gflops / best,
    }


def _soft_prompts(batches: list) -> tuple:
    import peft
    import torch

    from adapt.train.soft_prompt import _SoftPrompt

    llm = _decoder()
    module = _SoftPrompt(0.1 * torch.randn(VIRTUAL, 512))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    tuned = peft.get_peft_model(copy.deepcopy(llm.model.language_model), config)
    tuned.prompt_encoder.default.embedding.weight.data.copy_(module.vectors.detach())
    rows = _rows(llm.after, batches)
    return llm, ours(llm, module, None, lambda step: [module.vectors] * BATCH, batches), plain(tuned, rows, STEPS)


def _loras(batches: list) -> tuple:
    import peft

    llm = _decoder()
    prompt = list(range(100, 100 + PROMPT))
    slot = llm.embed(prompt[:VIRTUAL])
    llm.after = prompt[VIRTUAL:]
    config = peft.LoraConfig(r=16, lora_alpha=32, target_modules=LAYERS)
    tuned = peft.get_peft_model(copy.deepcopy(llm.model.language_model), config)
    model = peft.get_peft_model(llm.model, peft.LoraConfig(r=16, lora_alpha=32, target_modules=LAYERS))
    copy_lora(tuned, model)
    rows = _rows(prompt, batches)
    return llm, ours(llm, model, model, lambda step: [slot] * BATCH, batches), plain(tuned, rows, STEPS)


def copy_lora(tuned, model) -> None:
    """Copy the LoRA of an LLM, `tuned`, to the speech LLM that it is the LLM of."""
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            same = name.replace("base_model.model.", "base_model.model.language_model.")
            model.get_parameter(same).data.copy_(parameter)


def _random(name: str, ways: Callable[[list], tuple], shortest: int, longest: int) -> dict:
    """The row of a benchmark on random sentences."""
    batches = _batches(shortest, longest)
    return compared(name, lambda: ways(batches), batches)


def train_soft_prompt() -> dict:
    """Stage 1, sentences of 10 tokens."""
    return _random("train_soft_prompt", _soft_prompts, 10, 10)


def train_lora() -> dict:
    """Stage 2, sentences of 10 tokens."""
    return _random("train_lora", _loras, 10, 10)


def train_soft_prompt_uneven() -> dict:
    """Stage 1, sentences of 3 to 17 tokens."""
    return _random("train_soft_prompt_uneven", _soft_prompts, 3, 17)


def train_lora_uneven() -> dict:
    """Stage 2, sentences of 3 to 17 tokens."""
    return _random("train_lora_uneven", _loras, 3, 17)


TRAINING = (train_soft_prompt, train_lora, train_soft_prompt_uneven, train_lora_uneven)
