"""Make sentences in four languages and their speech: `python recipes/multilingual/generate.py`. Needs espeak-ng.

Development and test sentences come from templates that training never sees. Half of the training utterances are words
in random order. From eighteen templates alone, an encoder learns to recognise the template, and not how letters sound.
The text for the decoder consists only of words in random order. Otherwise the decoder would memorise the transcripts
and ignore its slot.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
from multiprocessing import Pool
from pathlib import Path

import click

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
# Training utterances, deliberately uneven, to demonstrate sampling with a temperature.
COUNTS = {"en": 2_400, "de": 1_200, "fr": 600, "es": 300}
LISTS = 0.5  # share of the training utterances that are words in random order
LINES = 5_000  # lines of text for the decoder, in each language
HELD_OUT = {"dev": 40, "test": 100}
ACCENTS = {"en": "en-us", "de": "de", "fr": "fr-fr", "es": "es"}
VARIANTS = {"train": ("m1", "m2", "m3", "m4", "f1", "f3", "f5"), "dev": ("m7", "f2"), "test": ("m5", "f4")}


def templates(language: str) -> tuple[dict[str, list[str]], list[str]]:
    """The words for each slot and the sentence templates in `sentences/LANGUAGE.txt`."""
    slots, sentences = {}, []
    for line in (HERE / f"sentences/{language}.txt").read_text(encoding="utf-8").splitlines():
        name, colon, words = line.partition(":")
        if colon and name.isalpha():
            slots[name] = [word.strip() for word in words.split("|")]
        elif line and not line.startswith("#"):
            sentences.append(line)
    return slots, sentences


def filled(sentence: str, slots: dict[str, list[str]], rng: random.Random) -> str:
    """Fill each slot of a sentence with a word, without using a word twice."""
    used: set[str] = set()

    def word(match: re.Match) -> str:
        chosen = rng.choice([w for w in slots[match[1]] if w not in used])
        used.add(chosen)
        return chosen

    return re.sub(r"\{(\w+)\}", word, sentence)


def words_of(language: str) -> list[str]:
    """All words of a language, sorted."""
    slots, sentences = templates(language)
    texts = (*sentences, *itertools.chain(*slots.values()))
    return sorted({word for text in texts for word in text.split() if "{" not in word})


def in_any_order(words: list[str], rng: random.Random) -> str:
    return " ".join(rng.sample(words, rng.randint(3, 7)))


def rows(language: str, rng: random.Random) -> dict[str, list[dict]]:
    """Manifest rows of each set. `rate` and `pitch` are settings of espeak-ng."""
    slots, sentences = templates(language)
    words = words_of(language)
    rng.shuffle(sentences)
    kept = {"dev": sentences[:2], "test": sentences[2:6], "train": sentences[6:]}
    found = {}
    for kind, count in {"train": COUNTS[language], **HELD_OUT}.items():
        found[kind] = []
        for i in range(count):
            name = f"{language}-{kind}-{i:04d}"
            voice = f"{ACCENTS[language]}+{rng.choice(VARIANTS[kind])}"
            text = filled(rng.choice(kept[kind]), slots, rng)
            if kind == "train" and rng.random() < LISTS:
                text = in_any_order(words, rng)
            row = {"id": name, "audio": f"audio/{name}.wav", "text": text, "language": language, "voice": voice}
            found[kind].append({**row, "rate": rng.randint(140, 185), "pitch": rng.randint(30, 70)})
    return found


def speak(row: dict) -> None:
    out = DATA / row["audio"]
    if not out.exists():
        command = ["espeak-ng", "-v", row["voice"], "-s", str(row["rate"]), "-p", str(row["pitch"]), "-w"]
        subprocess.run([*command, str(out.with_suffix(".part")), row["text"]], check=True)
        out.with_suffix(".part").replace(out)


@click.command()
@click.option("--processes", default=2, show_default=True, help="Processes that synthesise.")
def main(processes: int) -> None:
    """Write data/: text and manifests of all languages together and of each one, and audio that is missing.

    Delete data/ after a change to the sentences.
    """
    (DATA / "audio").mkdir(parents=True, exist_ok=True)
    by_language = {language: rows(language, random.Random(language)) for language in COUNTS}
    texts = {}
    for language in COUNTS:
        words, rng = words_of(language), random.Random(f"{language} text")
        texts[f"text-{language}"] = [in_any_order(words, rng) for _ in range(LINES)]
    texts["text"] = [*itertools.chain(*texts.values())]
    for name, lines in texts.items():
        (DATA / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    for kind in VARIANTS:
        together = [row for found in by_language.values() for row in found[kind]]
        manifests = {kind: together} | {f"{kind}-{language}": found[kind] for language, found in by_language.items()}
        for name, members in manifests.items():
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in members)
            (DATA / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        with Pool(processes) as pool:
            pool.map(speak, together, chunksize=20)
        click.echo(f"{kind}: {len(together):,} utterances", err=True)


if __name__ == "__main__":
    main()
