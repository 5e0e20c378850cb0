"""What the toolkit costs beside the plain way, measured in one run: `python tests/benchmarks/run.py [--json FILE]`.

Ratios are medians of interleaved repetitions, ours / plain, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(ours, plain, repetitions: int) -> tuple[float, float]:
    """Median seconds of each."""
    pairs = [(seconds(ours), seconds(plain)) for _ in range(repetitions)]
    return tuple(statistics.median(column) for column in zip(*pairs, strict=True))


def help_startup() -> dict:
    """`adapt score --help` beside `python -c pass`."""
    adapt = Path(sys.executable).with_name("adapt")
    silent = {"check": True, "stdout": subprocess.DEVNULL}
    ours, plain = interleaved(
        lambda: subprocess.run([adapt, "score", "--help"], **silent),
        lambda: subprocess.run([sys.executable, "-c", "pass"], **silent),
        9,
    )
    return {"name": "help_startup", "ours_s": ours, "plain_s": plain, "ratio": ours / plain}


def corpus(utterances: int, entries: int, folder: Path) -> tuple[Path, Path, Path]:
    """References and hypotheses of 10 words, one in ten wrong, half with an entity, and the lexicon."""
    rng = random.Random(1)
    words = [f"w{i}" for i in range(20_000)]
    names = list({" ".join(rng.choices(words, k=rng.randint(1, 3))): None for _ in range(entries)})
    refs, hyps, lexicon = folder / "refs.tsv", folder / "hyps.tsv", folder / "names.tsv"
    lexicon.write_text("".join(f"{name}\t{rng.choice('abc')}\n" for name in names))
    with refs.open("w") as said, hyps.open("w") as heard:
        for i in range(utterances):
            ref = rng.choices(words, k=10)
            if rng.random() < 0.5:
                name = rng.choice(names).split()
                ref[3 : 3 + len(name)] = name
            hyp = [word if rng.random() > 0.1 else rng.choice(words) for word in ref]
            said.write(f"{i}\t{' '.join(ref)}\n")
            heard.write(f"{i}\t{' '.join(hyp)}\n")
    return refs, hyps, lexicon


def scoring(utterances: int = 1_000_000, entries: int = 10_000) -> dict:
    """`adapt score` from files, lexicon, intervals and all, beside reading the files and jiwer's WER alone."""
    adapt = Path(sys.executable).with_name("adapt")
    plain = (
        "import sys, jiwer\n"
        "refs, hyps = ([line.rstrip('\\n').split('\\t')[1] for line in open(p)] for p in sys.argv[1:])\n"
        "jiwer.process_words(refs, hyps)"
    )
    with tempfile.TemporaryDirectory() as folder:
        refs, hyps, lexicon = corpus(utterances, entries, Path(folder))
        silent = {"check": True, "stdout": subprocess.DEVNULL}
        ours = seconds(lambda: subprocess.run([adapt, "score", refs, hyps, "--lexicon", lexicon], **silent))
        # The largest of the children so far: the next one is not in it.
        gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        theirs = seconds(lambda: subprocess.run([sys.executable, "-c", plain, refs, hyps], **silent))
    row = {"name": "scoring", "utterances": utterances, "entries": entries, "ours_s": ours, "plain_s": theirs}
    return {**row, "ours_gb": gigabytes, "ratio": ours / theirs}


def bootstrap() -> dict:
    """1,000 resamples of 10,000 utterances beside scoring each resample anew (measured on ten of them)."""
    import numpy as np

    from adapt.score.compare import resample
    from adapt.score.wer import align, count

    rng = random.Random(1)
    refs = [[rng.choice("abcdefgh") for _ in range(10)] for _ in range(10_000)]
    hyps = [[word if rng.random() > 0.1 else "x" for word in ref] for ref in refs]
    # Utterances of many lengths: hardly two have the same counts, which is the slow case.
    stats = np.random.default_rng(1).integers(0, 100, (10_000, 4))

    def rescore() -> None:
        for i in rng.choices(range(10_000), k=10_000):
            count(refs[i], hyps[i], align(refs[i], hyps[i]))

    ours, once = interleaved(lambda: resample(stats, 1000, 1), rescore, 5)
    return {"name": "bootstrap", "ours_s": ours, "plain_s": 1000 * once, "ratio": ours / (1000 * once)}


def training_bf16(rows: int = 32, slots: int = 80) -> dict:
    """A step of the decoder's LoRA on the built-in base, forward and backward, in bf16 beside fp32."""
    import torch

    from adapt.model.adapter import add_lora
    from adapt.model.speech_llm import load, token_loss

    llm = load("tiny")
    model = add_lora(llm, rank=32, alpha=64, dropout=0.0)
    targets = [llm.target_ids("could you play the second song of that album again")] * rows
    embeds, mask, labels = llm.training_batch([torch.randn(slots, 256)] * rows, targets)
    embeds = embeds.detach()

    def step(bf16: bool) -> None:
        with torch.autocast(llm.device.type, torch.bfloat16, enabled=bf16):
            loss = token_loss(model(inputs_embeds=embeds, attention_mask=mask).logits, labels)
        loss.backward()
        float(loss)  # waits for a GPU

    step(True), step(False)
    ours, plain = interleaved(lambda: step(True), lambda: step(False), 15)
    return {"name": "training_bf16", "device": str(llm.device), "ours_s": ours, "plain_s": plain, "ratio": ours / plain}


BENCHMARKS = {work.__name__: work for work in (help_startup, bootstrap, scoring, training_bf16)}


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--json", "out", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def main(names: tuple[str, ...], out: Path | None) -> None:
    rows = []
    for name in names or BENCHMARKS:
        rows.append(BENCHMARKS[name]())
        click.echo("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{v}" for k, v in rows[-1].items()))
    if out:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "cores": os.cpu_count()}
        ratios = {row["name"]: row["ratio"] for row in rows}
        told = json.dumps({"machine": machine, "ratios": ratios, "rows": rows}, indent=2)
        out.write_text(told + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
