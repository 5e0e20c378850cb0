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

sys.path.insert(0, str(Path(__file__).parent))
from training import TRAINING


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

    from adapt.score.bootstrap import resample
    from adapt.score.wer import align_words, count

    rng = random.Random(1)
    refs = [[rng.choice("abcdefgh") for _ in range(10)] for _ in range(10_000)]
    hyps = [[word if rng.random() > 0.1 else "x" for word in ref] for ref in refs]
    # Utterances of many lengths: hardly two have the same counts, which is the slow case.
    stats = np.random.default_rng(1).integers(0, 100, (10_000, 4))

    def rescore() -> None:
        for i in rng.choices(range(10_000), k=10_000):
            count(refs[i], hyps[i], align_words(refs[i], hyps[i]))

    ours, once = interleaved(lambda: resample(stats, 1000, 1), rescore, 5)
    return {"name": "bootstrap", "ours_s": ours, "plain_s": 1000 * once, "ratio": ours / (1000 * once)}


def training_bf16(rows: int = 32, slots: int = 80) -> dict:
    """A step of the decoder's LoRA on the built-in base in bf16 beside fp32, forward and backward."""
    import torch

    from adapt.model.adapter import add_lora
    from adapt.model.load import load_speech_llm
    from adapt.model.packing import target_logits
    from adapt.model.speech_llm import token_loss

    llm = load_speech_llm("tiny")
    model = add_lora(llm, rank=32, alpha=64, dropout=0.0)
    targets = [llm.target_ids("could you play the second song of that album again")] * rows
    embeddings = list(torch.randn(rows, slots, 256))

    def step(bf16: bool = True) -> None:
        with torch.autocast(llm.device.type, torch.bfloat16, enabled=bf16), llm.plain_attention():
            loss = token_loss(*target_logits(llm, embeddings, targets, through=model))
        loss.backward()
        loss.item()  # waits for a GPU

    step(), step(bf16=False)
    ours, plain = interleaved(step, lambda: step(bf16=False), 15)
    return {"name": "training_bf16", "device": str(llm.device), "ours_s": ours, "plain_s": plain, "ratio": ours / plain}


def huge_pages() -> dict:
    """A step of the built-in base's encoder on 120 s of audio, in huge pages, as the command asks for, beside without.

    The setting is read when torch is imported, so that each repetition is a process of its own.
    """
    code = (
        "import time, torch\n"
        "from adapt.model.load import load_speech_llm\n"
        "encoder = load_speech_llm('tiny', device='cpu').model.encoder.train().requires_grad_(True)\n"
        "samples, lengths = torch.randn(40, 48_000), torch.full((40,), 48_000)\n"
        "def step():\n"
        "    with torch.autocast('cpu', torch.bfloat16, torch.cpu._is_avx512_bf16_supported()):\n"
        "        encoder(*encoder.inputs(samples, lengths))[0].float().square().mean().backward()\n"
        "step()\n"
        "start = time.perf_counter()\n"
        "for _ in range(8): step()\n"
        "print((time.perf_counter() - start) / 8)"
    )

    def step(pages: str) -> float:
        environment = os.environ | {"THP_MEM_ALLOC_ENABLE": pages}
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
        return float(done.stdout)

    pairs = [(step("1"), step("0")) for _ in range(5)]
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"name": "huge_pages", "ours_s": ours, "plain_s": plain, "ratio": ours / plain}


def beam_search(utterances: int = 16, beams: int = 4, slots: int = 100, tokens: int = 24) -> dict:
    """Transcripts of `generate` in `adapt.decode.beam_search` beside those of the model's own `generate`."""
    import torch
    from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

    from adapt.decode.beam_search import generate
    from adapt.model.load import load_speech_llm

    llm = load_speech_llm("tiny")
    prompts = [llm.prompt(torch.randn(slots, llm.hidden, device=llm.device)) for _ in range(utterances)]
    embeds = torch.stack(prompts)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
    endless = LogitsProcessorList([SuppressTokensLogitsProcessor(llm.ends, device=llm.device)])  # of one length, all

    def ours() -> None:
        generate(llm, prompts, beams, tokens, endless)

    @torch.no_grad()
    def plain() -> None:
        llm.model.generate(
            inputs_embeds=embeds,
            attention_mask=mask,
            num_beams=beams,
            max_new_tokens=tokens,
            do_sample=False,
            logits_processor=endless,
        ).tolist()  # waits for a GPU

    ours(), plain()
    fast, slow = interleaved(ours, plain, 7)
    return {"name": "beam_search", "device": str(llm.device), "ours_s": fast, "plain_s": slow, "ratio": fast / slow}


def joint_ctc(utterances: int = 64, beams: int = 4, batch: int = 16) -> dict:
    """Beam search over recordings of `recipes/music` with CTC beside the decoder, and without."""
    from adapt.decode.beam_search import generate
    from adapt.decode.fusion import Fusion
    from adapt.decode.parts import Batch
    from adapt.decode.weights import Weights
    from adapt.model.features import read_audio
    from adapt.model.heard import embeddings_and_heard
    from adapt.model.load import load_speech_llm
    from adapt.text.manifest import read_manifest
    from adapt.text.normalise import none

    llm = load_speech_llm("tiny")
    spoken = read_manifest(Path(__file__).parents[2] / "recipes/music/dev.jsonl")[:utterances]
    slots, posteriors = embeddings_and_heard(llm, [read_audio(u.audio) for u in spoken])
    prompts, fusion = [llm.prompt(slot) for slot in slots], Fusion(llm, Weights(ctc=0.1), normalise=none)
    batches = [slice(start, start + batch) for start in range(0, utterances, batch)]

    def joint() -> None:
        for rows in batches:
            processors = fusion.processors(Batch([None] * batch, posteriors[rows]))
            generate(llm, prompts[rows], beams, processors=processors)

    def plain() -> None:
        for rows in batches:
            generate(llm, prompts[rows], beams)

    joint(), plain()
    slow, fast = interleaved(joint, plain, 5)
    return {"name": "joint_ctc", "device": str(llm.device), "ours_s": slow, "plain_s": fast, "ratio": slow / fast}


def _zipf_sentences(vocabulary: int, tokens: int) -> list[list[int]]:
    """Sentences of 12 tokens in which a few hundred tokens are most of the text, and many follow each other often."""
    import numpy as np

    rng = np.random.default_rng(1)
    ids = np.minimum(rng.zipf(1.3, tokens) + 3, vocabulary - 1)
    again = rng.random(tokens) < 0.5  # half of the tokens depend on the one before
    ids[1:][again[1:]] = (ids[:-1][again[1:]] * 7 + 11) % (vocabulary - 4) + 4
    return ids.reshape(-1, 12).tolist()


def _fusion_overhead(vocabulary: int, utterances: int = 8, beams: int = 8, steps: int = 24) -> dict:
    """`generate` of a Llama (6 layers of 256) with a 4-gram and 20,000 phrases fused, over `generate` alone.

    kenlm_ratio: with kenlm called from Python for every token of the vocabulary, over two steps.
    """
    import kenlm
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor

    from adapt.decode.ngram_fusion import NgramFusion
    from adapt.lm import ngram
    from adapt.lm.automaton import dense_rows, score_all
    from adapt.lm.boosting import boosting_automaton
    from adapt.lm.estimate import estimate, write_arpa
    from adapt.lm.phrases import Phrase

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=3,
    )
    model = LlamaForCausalLM(config).eval()
    prompts = torch.randn(utterances, 60, 256) * 0.02
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.arpa"
        write_arpa(estimate(_zipf_sentences(vocabulary, 1_200_000), vocabulary, 4), path)
        loading = seconds(lambda: ngram.load_ngrams(path, vocabulary, ends=[2]))
        lm, plain = ngram.load_ngrams(path, vocabulary, ends=[2]), kenlm.Model(str(path))
    begins = torch.rand(vocabulary).numpy() < 0.5
    firsts = begins.nonzero()[0].tolist()
    spelled = {
        (rng.choice(firsts), *(rng.randrange(4, vocabulary) for _ in range(rng.randint(1, 5)))) for _ in range(20_000)
    }
    phrases = boosting_automaton([[Phrase(p, p) for p in spelled]], begins, ends=[2])

    class Kenlm(LogitsProcessor):
        def __call__(self, ids, scores):
            fused = scores.clone()
            for row, tokens in enumerate(ids.tolist()):
                state, after = kenlm.State(), kenlm.State()
                plain.BeginSentenceWrite(state)
                for token in tokens:
                    plain.BaseScore(state, str(token), after)
                    state, after = after, state
                said = [plain.BaseScore(state, str(token), after) for token in range(vocabulary)]
                fused[row] += 0.3 * torch.tensor(said)
            return fused

    def generate(processors: list, length: int = steps) -> None:
        more = {"num_beams": beams, "do_sample": False, "max_new_tokens": length, "min_new_tokens": length}
        model.generate(inputs_embeds=prompts, logits_processor=processors, eos_token_id=2, pad_token_id=3, **more)

    fused = [NgramFusion(lm, 0.3, (phrases, 0.5))]
    generate(fused), generate([])
    ours, alone = interleaved(lambda: generate(fused), lambda: generate([]), 9)
    slow, two = interleaved(lambda: generate([Kenlm()], 2), lambda: generate([], 2), 3 if vocabulary < 100_000 else 1)
    per_step = (slow - two) / 2 / (alone / steps)
    scores = torch.randn(utterances * beams, vocabulary)

    def step(automaton) -> float:
        states = torch.randint(0, len(automaton.rest), (len(scores),))
        rows = dense_rows([automaton])
        score_all(scores, [(automaton, states, 0.3)], rows)
        return statistics.median(
            seconds(lambda: score_all(scores, [(automaton, states, 0.3)], rows)) for _ in range(15)
        )

    return {
        "name": f"fusion_overhead_{vocabulary // 1000}k",
        "ngrams": len(lm.gains) + int((lm.root_targets > 0).sum()),
        "loading_s": loading,
        "lm_step_ms": 1000 * step(lm),
        "phrases_step_ms": 1000 * step(phrases),
        "ours_s": ours,
        "plain_s": alone,
        "ratio": ours / alone,
        "kenlm_ratio": 1 + per_step,
    }


def fusion_overhead_4k() -> dict:
    return _fusion_overhead(4_096)


def fusion_overhead_32k() -> dict:
    return _fusion_overhead(32_000)


def fusion_overhead_152k() -> dict:
    return _fusion_overhead(152_000)


FUSION = (fusion_overhead_4k, fusion_overhead_32k, fusion_overhead_152k)
BENCHMARKS = {
    work.__name__: work
    for work in (
        help_startup,
        bootstrap,
        scoring,
        training_bf16,
        *TRAINING,
        huge_pages,
        beam_search,
        joint_ctc,
        *FUSION,
    )
}


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
