"""What fusion adds to a beam search, over decoders with vocabularies of several sizes."""

from __future__ import annotations

import random
import statistics
import tempfile
from pathlib import Path

from timing import interleaved, seconds


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
    ours, alone = interleaved(lambda: generate(fused), lambda: generate([]), repetitions=9)
    often = 3 if vocabulary < 100_000 else 1
    slow, two = interleaved(lambda: generate([Kenlm()], 2), lambda: generate([], 2), repetitions=often)
    per_step = (slow - two) / 2 / (alone / steps)
    scores = torch.randn(utterances * beams, vocabulary)

    def step(automaton) -> float:
        states = torch.randint(0, len(automaton.home), (len(scores),))
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
