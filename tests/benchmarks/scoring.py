"""What scoring and its intervals cost."""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from timing import ADAPT, cost, interleaved


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
    plain = (
        "import sys, jiwer\n"
        "refs, hyps = ([line.rstrip('\\n').split('\\t')[1] for line in open(p)] for p in sys.argv[1:])\n"
        "jiwer.process_words(refs, hyps)"
    )
    with tempfile.TemporaryDirectory() as folder:
        refs, hyps, lexicon = corpus(utterances, entries, Path(folder))
        ours = cost(ADAPT, "score", refs, hyps, "--lexicon", lexicon)
        theirs = cost(sys.executable, "-c", plain, refs, hyps)
    row = {"name": "scoring", "utterances": utterances, "entries": entries}
    row |= {"ours_s": ours.seconds, "plain_s": theirs.seconds, "ours_gb": ours.gigabytes}
    return row | {"ratio": ours.seconds / theirs.seconds}


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

    ours, once = interleaved(lambda: resample(stats, 1000, 1), rescore, repetitions=5)
    return {"name": "bootstrap", "ours_s": ours, "plain_s": 1000 * once, "ratio": ours / (1000 * once)}
