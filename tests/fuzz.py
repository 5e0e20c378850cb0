"""Feed every reader of users' files with broken files: each must end in a result or an `AdaptError`.

python tests/fuzz.py 100000            # inputs for each reader
python tests/fuzz.py 100000 recipe     # for one reader

Inputs are mutations of whole files: bytes and lines that are changed, doubled, left out, or replaced by what often
breaks readers. Half of the inputs of readers of YAML and JSON are whole documents in which other values stand
(hypothesis). An input may take 10 seconds, and a reader 2 GB. The first input that breaks one is printed.
"""

from __future__ import annotations

import io
import json
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import pyarrow.parquet
import soundfile
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from adapt.errors import AdaptError
from adapt.lm.arpa import kind, read_arpa
from adapt.model.bases import tensors
from adapt.model.features import read_audio
from adapt.recipe.base import BaseRecipe
from adapt.recipe.domain import Recipe
from adapt.recipe.load import load_recipe
from adapt.text.clip import Clip, duration
from adapt.text.corpus import read_text
from adapt.text.lexicon import read_lexicon
from adapt.text.manifest import read_manifest
from adapt.text.template import parse, read_template
from adapt.text.transcripts import read_hypotheses, read_hypothesis_texts, read_references

ROOT = Path(__file__).parent
SECONDS, GIGABYTES = 10, 2
TOKENS = [
    *(b"\0", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"\n", b"\r\n", b"\t", b"\\", b'"', b"'", b"{", b"}", b"[", b"]", b":"),
    *(b"&a ", b"*a", b"!!python/object:os.system ", b"- ", b"#", b"|", b">", b"%", b"@", b"`", b"null", b"true", b"~"),
    *(b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b"\\ud800", "\u202e".encode(), "\u0301".encode(), "歌".encode()),
    *(
        b"<speech>",
        b"<p:4>",
        b"<p:",
        b"</s>",
        b"<unk>",
        b"\\data\\",
        b"\\end\\",
        b"\\1-grams:",
        b"ngram 1=",
        b"[" * 2_000,
    ),
    *((2**n).to_bytes(4, order) for n in (7, 15, 16, 31) for order in ("little", "big")),
]


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["", " ", "~", "1e999", "<speech>", "/", "..", "a" * 5_000, "text.txt", 10**40, -1, 0, 0.5]),
    ),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(max_size=8), value, max_size=3),
    max_leaves=5,
)


def _yaml_documents(content: bytes) -> list:
    return [yaml.safe_load(content)]


def _as_yaml(documents: list) -> bytes:
    return yaml.safe_dump(documents[0], allow_unicode=True).encode("utf-8", "surrogatepass")


def _json_documents(content: bytes) -> list:
    return [json.loads(line) for line in content.splitlines() if line.strip()]


def _as_json(documents: list) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


YAML, JSON = (_yaml_documents, _as_yaml), (_json_documents, _as_json)


@dataclass(frozen=True)
class Reader:
    """A reader, the name of the file that it reads, and whole files to mutate.

    documents: how the files are parsed and written, where they are documents; None: bytes alone are changed.
    """

    read: Callable[[Path], object]
    name: str
    files: tuple[bytes, ...]
    documents: tuple[Callable[[bytes], list], Callable[[list], bytes]] | None = None


def _sound(form: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (800, 2))
    soundfile.write(buffer, samples, 16_000, format=form, subtype=subtype)
    return buffer.getvalue()


def _parquet() -> bytes:
    buffer, texts = pyarrow.BufferOutputStream(), ["play it", None, "play\nit", *map(str, range(50))]
    columns = {"text": texts, "id": list(range(len(texts)))}
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, row_group_size=20)
    return buffer.getvalue().to_pybytes()


def _strangers(*names: str) -> tuple[bytes, ...]:
    return tuple((ROOT / "strangers" / name).read_bytes() for name in names)


def _recipe(name: str) -> bytes:
    return (ROOT.parent / "recipes" / name / "recipe.yaml").read_bytes()


def _audio(path: Path) -> None:
    duration(Clip(path))
    read_audio(path)


def _arpa(path: Path) -> None:
    kind(path)
    read_arpa(path)


def _template(path: Path) -> None:
    parse(read_template(path.name, path.parent))


ARPA = rb"""\data\
ngram 1=4
ngram 2=2

\1-grams:
-0.5 <s> -0.1
-0.5 </s>
-1 7 -0.2
-1 8

\2-grams:
-0.1 <s> 7
-0.2 7 8

\end\
"""
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
TRANSCRIPTS = _strangers("comments.trn", "header.tsv", "kaldi_text", "nemo_segments.json", "texts.tsv")
READERS = {
    "recipe": Reader(lambda path: load_recipe(Recipe, path), "recipe.yaml", (_recipe("music"),), YAML),
    "base recipe": Reader(
        lambda path: load_recipe(BaseRecipe, path), "recipe.yaml", (_recipe("base"), _recipe("small")), YAML
    ),
    "template": Reader(
        _template,
        "t.yaml",
        (b"prompt: '<p:4><speech>\\n ASSISTANT:'\nprompt_template: 'USER: {prompt}'\n",),
        YAML,
    ),
    "text": Reader(read_text, "text.txt", _strangers("texts.tsv")),
    "text of JSONL": Reader(read_text, "text.jsonl", _strangers("nemo_segments.json"), JSON),
    "text of Parquet": Reader(read_text, "text.parquet", (_parquet(),)),
    "manifest": Reader(
        lambda path: read_manifest(path, need_audio=False), "m.jsonl", _strangers("nemo_segments.json"), JSON
    ),
    "manifest of Parquet": Reader(
        lambda path: read_manifest(path, need_audio=False, need_text=False), "m.parquet", (_parquet(),)
    ),
    "references": Reader(read_references, "refs", TRANSCRIPTS),
    "hypotheses": Reader(read_hypothesis_texts, "hyps", TRANSCRIPTS),
    "scored JSON": Reader(read_references, "refs.jsonl", _strangers("nemo_segments.json"), JSON),
    "own hypotheses": Reader(
        read_hypotheses, "h.jsonl", (b'{"id": "1", "text": "a b"}\n{"id": "2", "text": ""}\n',), JSON
    ),
    "lexicon": Reader(
        read_lexicon,
        "names.tsv",
        (b"# bands\nABBA\tartist\nU2\tartist\tu two|you two\t0.5\n", *_strangers("excel.tsv", "lexicon.csv")),
    ),
    "n-gram LM": Reader(_arpa, "lm.arpa", (ARPA,)),
    "weights": Reader(
        lambda path: tensors(path.parent),
        "model.safetensors",
        (len(HEADER).to_bytes(8, "little") + HEADER + b"\0" * 4,),
    ),
    "audio": Reader(
        _audio,
        "a.wav",
        (
            *map(_sound, ("WAV", "FLAC", "OGG", "AU", "AIFF", "W64", "CAF", "MP3")),
            *(_sound("WAV", "IMA_ADPCM"), _sound("OGG", "OPUS")),
        ),
    ),
}


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content of a file with one to four changes, in most cases one."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        end = min(end, place + rng.choice((1, 8, 1_000)))
        new = rng.choice(
            (b"", bytes([rng.randrange(256)]), rng.choice(TOKENS), content[place:end] * 2, content[end:][:40])
        )
        content = content[:place] + new + content[end:]
    return content


@st.composite
def documents(draw: st.DrawFn, reader: Reader) -> bytes:
    """A file of a reader in which one to three values are others."""
    parse, write = reader.documents
    whole = parse(draw(st.sampled_from(reader.files)))
    for _ in range(draw(st.integers(1, 3))):
        places, open_ = [], [whole]
        while open_:
            container = open_.pop()
            keys = container if isinstance(container, dict) else range(len(container))
            places += [(container, key) for key in keys]
            open_ += [container[key] for key in keys if isinstance(container[key], (dict, list))]
        container, key = draw(st.sampled_from(places))
        container[key] = draw(VALUES)
    return write(whole)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def fuzz(reader: Reader, count: int, seed: int = 1) -> tuple[int, float]:
    """Read `count` inputs; returns how many were errors of the user, and the seconds of the slowest."""
    rng, refused, slowest = random.Random(seed), 0, 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + GIGABYTES * 10**9 + 4 * 10**9,) * 2)  # 4 GB: libraries reserve more
    signal.signal(signal.SIGALRM, _too_long)
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        path = Path(folder, reader.name)
        for name in re.findall(rb"[\w/-]+\.(?:txt|tsv|jsonl)", b"".join(reader.files)):  # those that recipes name
            (file := path.parent / name.decode()).parent.mkdir(parents=True, exist_ok=True)
            file.touch()

        def read(content: bytes) -> None:
            nonlocal refused, slowest
            path.write_bytes(content)
            started = time.perf_counter()
            signal.alarm(SECONDS)
            try:
                reader.read(path)
            except AdaptError:
                refused += 1
            except BaseException:
                print(repr(content[:2_000]), file=sys.stderr)
                raise
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - started)

        of_documents = count // 2 if reader.documents else 0
        for _ in range(count - of_documents):
            read(mutated(rng.choice(reader.files), rng))
        if of_documents:
            run = settings(
                max_examples=of_documents,
                phases=[Phase.generate],
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            )
            run(given(documents(reader))(read))()
    return refused, slowest


@click.command()
@click.argument("count", type=int)
@click.argument("names", nargs=-1, type=click.Choice(list(READERS)))
def main(count: int, names: tuple[str, ...]) -> None:
    """Feed READERS with COUNT inputs each, every reader in a process of its own."""
    if len(names) == 1:
        refused, slowest = fuzz(READERS[names[0]], count)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        click.echo(f"{names[0]}: {count:,} inputs, {refused:,} refused, slowest {slowest:.2f} s, {peak:.1f} GiB")
        return
    failed = [
        name
        for name in names or READERS
        if subprocess.run([sys.executable, "-W", "ignore", __file__, str(count), name], check=False).returncode
    ]
    sys.exit(f"broken: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
