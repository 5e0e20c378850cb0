"""The studies of arXiv 2307.11795 on pretrained parts: encoder, first pass, stride, units of CTC, projector and LoRA.

python recipes/small/studies.py PARTS OUT

PARTS is a folder with whisper-base/, whisper-tiny.en/ and smollm2-135m/. Each row is a run of `adapt base` with one
change, on a quarter of the recordings and with fewer steps than the recipe has, scored on half of its test sets. Frames
are computed once for all rows of an encoder, and rows that are finished are not run again. The table goes to standard
output.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "base"))

from studies import keys_of, measured  # noqa: E402

SMALLER = {"align.steps": 150}
FOURTH = "data/fourth.jsonl"  # every fourth recording to train on
HALF = "data/half.jsonl"  # every second recording to test on
# The encoder without its decoder: the projector learns by CTC over the LLM's units, and the LLM reads what CTC hears.
FRAMES = {"encoder.first_pass": "none", "align.projector": "normalised", "align.projector_size": 1024}
FRAMES |= {"encoder.steps": 400, "encoder.batch_seconds": 100, "encoder.learning_rate": 3e-3, "encoder.short_first": 0}
FRAMES |= {"align.stack": 4, "align.units": "mixed", "align.slots": "units", "align.explicit": "ctc"}
FRAMES |= {"align.ctc_steps": 500, "align.ctc_seconds": 30, "align.ctc_rate": 1.5e-3}
FRAMES |= {"align.decoder_rate": 2e-3, "align.simulated": 0, "align.steps": 250}
NO_CTC = {"align.units": "none", "align.slots": "all", "align.explicit": "none", "align.ctc_steps": 0}
VARIANTS: dict[str, dict[str, object]] = {
    "as in the recipe": {},
    "Whisper tiny.en": {"encoder.start": "whisper-tiny.en"},
    "LLM frozen": {"align.decoder": "frozen"},
    "LoRA of attention alone": {"align.lora_layers": "attention"},
    "LoRA of rank 2": {"align.rank": 2, "align.alpha": 4},
    "LoRA of rank 32": {"align.rank": 32, "align.alpha": 64},
    "frames alone": FRAMES,
    "frames alone, stack 2 (40 ms)": FRAMES | {"align.stack": 2},
    "frames alone, stack 8 (160 ms)": FRAMES | {"align.stack": 8},
    "frames alone, units: letters": FRAMES | {"align.units": "letters"},
    "frames alone, units: pieces": FRAMES | {"align.units": "pieces"},
    "frames alone, units: tokens": FRAMES | {"align.units": "tokens"},
    "frames alone, MLP without normalisation": FRAMES | {"align.projector": "mlp"},
    "frames alone, no CTC over units": FRAMES | NO_CTC,
    "frames alone, linear projector": FRAMES | {"align.projector": "linear"},
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("parts", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, type=click.Choice(list(VARIANTS)), metavar="[NAMES]...")
@click.option("-s", "--set", "more", multiple=True, metavar="KEY=VALUE", help="In every row, e.g. align.steps=400.")
def main(parts: Path, out: Path, names: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Measure the variants NAMES (default: all) with the parts in PARTS, in the folder OUT."""
    changed = keys_of(more)
    if not (HERE / "data/train.jsonl").exists():
        raise click.ClickException(f"{HERE / 'data'}: no recordings; make them as recipes/small/README.md says")
    for part, whole, step in ((FOURTH, "data/train.jsonl", 4), (HALF, "data/test.jsonl", 2)):
        lines = (HERE / whole).read_text(encoding="utf-8").splitlines(keepends=True)
        (HERE / part).write_text("".join(lines[::step]), encoding="utf-8")
    rows = []
    for name, changes in VARIANTS.items():
        if names and name not in names:
            continue
        keys = {
            "data.train": FOURTH,
            "data.test": HALF,
            "encoder.start": "whisper-base",
            "llm.start": "smollm2-135m",
            **SMALLER,
            **changes,
            **changed,
        }
        keys |= {part: (parts / str(keys[part])).resolve() for part in ("encoder.start", "llm.start")}
        folder = out / re.sub(r"[^\w.]+", "-", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()  # as a run's folder, so that it may hold the frames that all rows share
        if not (frames := folder / "frames").exists():
            (out / "frames").mkdir(exist_ok=True)
            frames.symlink_to((out / "frames").resolve())
        rows.append(measured(name, folder, str(HERE), keys))
    sets = [key.removesuffix(" llm") for key in rows[0]["wers"] if key.endswith(" llm")]
    click.echo(f"| variant | {' | '.join(f'{name}: LLM | encoder alone' for name in sets)} | training, s |")
    click.echo("|---" * (2 + 2 * len(sets)) + "|")
    for r in rows:
        alone = "first-pass" if f"{sets[0]} first-pass" in r["wers"] else "ctc"
        wers = [f"{100 * r['wers'][f'{name} {system}']:.1f}" for name in sets for system in ("llm", alone)]
        click.echo(f"| {r['name']} | {' | '.join(wers)} | {r['align_seconds']:.0f} |")


if __name__ == "__main__":
    main()
