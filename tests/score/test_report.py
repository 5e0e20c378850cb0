from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from adapt.score.files import save_hypotheses
from adapt.score.report import report, save_scores
from adapt.score.scoring import score_systems


def test_the_report_escapes_text_and_has_a_figure_for_each_curve(worked, tmp_path):
    sets, hyps, lexicon = worked
    hyps["target"]["adapted"]["4"] = "<stop> & abba"
    for name, systems in hyps.items():
        for system, texts in systems.items():
            save_hypotheses(tmp_path, name, system, texts)
    curves = {"prompt": [{"step": 1, "loss": 2.0}], "decoder": [{"step": 1, "loss": 2, "dev_loss": 1.5}]}
    scores = score_systems(sets, hyps, lexicon, "none", resamples=50)
    save_scores(tmp_path, scores, sets, curves, "name: <music>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert scores.signature in page and "name: &lt;music&gt;" in page
    assert "&lt;stop&gt;" in page and "<stop>" not in page and "<script" not in page
    assert page.count("<svg ") == 3 and "prefers-color-scheme" in page
    assert report(tmp_path) == page
    assert json.loads((tmp_path / "scores/metrics.json").read_text())["rows"] == scores.to_json()["rows"]
    assert {p.name for p in (tmp_path / "scores").iterdir()} == {"metrics.json", "errors.tsv", "table.md"}
    save_scores(tmp_path, score_systems(sets, hyps, lexicon, resamples=50), sets)
    page = report(tmp_path)
    assert page.count("<svg ") == 1
    assert "Let It Be" in page.partition("gained and lost")[2] and "hi high" in page.partition("entity errors of")[2]


class Page(HTMLParser):
    """The texts of title and h1, and of each table the number of cells in each row."""

    def __init__(self, page: str):
        super().__init__()
        self.texts, self.tables, self._open = {}, [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self._open = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("th", "td"):
            self.tables[-1][-1] += 1

    def handle_data(self, data):
        if self._open in ("title", "h1"):
            self.texts[self._open] = data

    def handle_endtag(self, tag):
        self._open = None


@pytest.fixture
def page(worked, tmp_path):
    """Makes report.html of the worked example, with a recipe or without."""
    sets, hyps, lexicon = worked
    for name, systems in hyps.items():
        for system, texts in systems.items():
            save_hypotheses(tmp_path, name, system, texts)

    def make(recipe_yaml: str = "", seen: frozenset | None = frozenset({"abba"})) -> Page:
        save_scores(tmp_path, score_systems(sets, hyps, lexicon, seen=seen, resamples=20), sets, None, recipe_yaml)
        return Page((tmp_path / "report.html").read_text(encoding="utf-8"))

    return make


@pytest.mark.parametrize(
    ("recipe_yaml", "name"),
    [("name: music\nseed: 1\n", "music"), ("name: 'no'\n", "no"), ("seed: 1\n", "target"), ("", "target")],
)
def test_the_title_names_the_recipe_or_else_the_first_set(page, recipe_yaml, name):
    assert page(recipe_yaml).texts == {"title": f"{name}: scores", "h1": f"{name}: scores"}


def test_columns_do_not_grow_with_the_entity_types(page):
    scores, types, further, *names = page().tables
    assert scores == [8] * 4, "set, system, WER, p, EER, p, seen, unseen; a head and three rows"
    assert types == [4] * 4, "type, mentions and the two systems; a head and three types"
    assert further == [10] * 4, "set, system, six figures, false alarms, mentions"
    assert [set(table) for table in names] == [{5}, {4}], "entities gained and lost, entity errors"
    scores, *_ = page(seen=None).tables
    assert scores == [6] * 4, "without a domain text nothing is seen or unseen"
