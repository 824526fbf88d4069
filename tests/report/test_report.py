"""Reports: one page without script or request, the same content in JSON and Markdown, and the same bytes each time."""

import importlib.util
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from cohortloom.errors import SettingsError
from cohortloom.report import Figure, Goal, Report, Score
from cohortloom.report.axis import LEFT, RIGHT, axis_svg, mark_svg
from cohortloom.report.figures import KINDS, figure_parts
from cohortloom.report.html import to_html
from cohortloom.report.markdown import to_markdown
from cohortloom.report.plain import as_tables, plain, say

_spec = importlib.util.spec_from_file_location("sample", Path(__file__).with_name("sample.py"))
sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sample)

EVIL = "<script>alert(1)</script> & \"x\" 'y' $\\frac{1}{2}$ <b>"


@pytest.fixture(scope="module")
def report():
    return sample.sample_report()


@pytest.fixture(scope="module")
def page(report):
    return to_html(report)


class Outline(HTMLParser):
    """Headings, ids, links and tags of a page; unclosed tags are counted."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.levels, self.open, self.wrong = [], [], [], [], [], []
        self.labelled = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" else []
        self.levels += [int(tag[1])] if re.fullmatch(r"h\d", tag) else []
        if tag == "svg":
            self.labelled.append(bool(found.get("aria-label")) or found.get("aria-hidden") == "true")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_page_needs_no_script_and_no_request(page):
    assert not re.search(r"<(script|iframe|object|embed|link|base|form)\b", page)
    assert not re.search(r"\son\w+=", page)
    assert "@import" not in page and "javascript:" not in page
    # no address is ever loaded; namespaces are not addresses
    assert [a for a in re.findall(r'(?:src|href)="([^"]*)"', page) if not a.startswith(("#", "data:image/png"))] == []
    assert re.findall(r"url\((?!#)[^)]*\)", page) == []


def test_page_of_120_scores_and_40_figures_stays_small(report, page):
    assert len(report.scores) == 120 and len(report.figures) >= 36
    assert len(page.encode()) < 5_000_000


def test_page_is_well_formed_and_every_link_lands(page):
    outline = Outline(page)
    assert outline.wrong == [] and outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {a[1:] for a in outline.links} <= set(outline.ids)
    assert all(outline.labelled)
    assert outline.levels[0] == 1 and outline.levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(outline.levels, outline.levels[1:]))


def test_verdict_comes_before_scores(report, page):
    assert page.index(report.verdict[0]) < page.index('class="scores"')
    assert all(sentence in page for sentence in report.not_tested)
    assert "Failed: " in page


def test_every_score_is_on_the_page_with_its_result_as_text(report, page):
    for score in report.scores:
        row = page[page.index(f'<tr id="{score.key}"') :].split("</tr>")[0]
        assert {True: "Pass", False: "Fail", None: "Open"}[score.passed] in row
        assert say(score.value) in row
    assert page.count('<svg class="axis pass"') + page.count('<svg class="axis fail"') == 108


def test_same_report_gives_the_same_bytes(report, tmp_path):
    short = replace(report, figures=report.figures[:14])
    for suffix in (".html", ".json", ".md"):
        for name in ("a", "b"):
            short.save(tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_drawing_leaves_matplotlib_as_it_was(report):
    before = dict(matplotlib.rcParams)
    figure_parts(report.figures[0], 1)
    assert dict(matplotlib.rcParams) == before


def evil_report():
    panel = {
        "title": EVIL,
        "rows": [EVIL],
        "columns": [EVIL],
        "values": [[0.5]],
        "states": [EVIL],
        "probability": [[1]],
    }
    panel |= {"labels": [EVIL], "series": [{"name": EVIL, "x": [1], "y": [2], "values": [3]}]}
    patient = {"title": EVIL, "facts": [EVIL], "series": [{"name": EVIL, "unit": EVIL, "time": [1], "value": [1]}]}
    patient["events"] = [{"time": 1, "label": EVIL}]
    content = {"panels": [panel], "x_label": EVIL, "y_label": EVIL, "columns": [EVIL], "rows": [[EVIL]]}
    content |= {"patients": [patient], "time_unit": EVIL}
    score = Score(EVIL, EVIL, 0.1, limit=0.0, reason=EVIL, unit=EVIL, key="k", details={EVIL: {EVIL: EVIL}})
    figures = tuple(Figure(kind, EVIL, content, EVIL, EVIL) for kind in KINDS)
    return Report(EVIL, (score,), figures, {EVIL: {EVIL: EVIL}}, (EVIL,), (EVIL,))


def test_names_from_data_are_escaped_everywhere():
    text = to_html(evil_report())
    assert "<script" not in text and "<b>" not in re.sub(r'<b class="\w*">', "", text)
    outline = Outline(text)
    assert outline.wrong == [] and outline.open == []
    assert text.count("could not be drawn") == 0
    markdown = to_markdown(evil_report())
    assert "<script" not in markdown and "<b>" not in markdown


def test_mathematics_in_a_label_stays_text():
    content = {"panels": [{"title": "a $x^2$ b", "series": [{"name": "synthetic", "x": [0, 1], "y": [0, 1]}]}]}
    assert "a $x^2$ b" in figure_parts(Figure("curves", "t", content), 1)["drawing"]


def test_colours_of_drawings_follow_the_theme(page):
    drawings = re.findall(r'<svg class="drawing".*?</svg>', page, flags=re.S)
    assert len(drawings) >= 38
    assert not any(re.search(r"(fill|stroke): #", d) for d in drawings)
    assert "var(--synthetic)" in page and "prefers-color-scheme: dark" in page


def test_json_knows_no_nan_and_holds_every_number(report, tmp_path):
    odd = Score("odd", "g", float("nan"), details={"x": np.array([1.0, np.inf]), "y": np.int64(3), "z": (Goal.LOW,)})
    Report("t", (odd,)).save(tmp_path / "odd.json")
    read = json.loads((tmp_path / "odd.json").read_text())
    assert read["scores"][0]["value"] is None
    assert read["scores"][0]["details"] == {"x": [1.0, None], "y": 3, "z": ["low"]}
    whole = report.to_dict()
    assert [s["value"] for s in whole["scores"]] == [s.value for s in report.scores]
    assert whole["figures"][0]["content"] == plain(report.figures[0].content)


def test_markdown_has_every_score_figure_and_caveat(report):
    text = to_markdown(report)
    for part in (*[s.name for s in report.scores], *report.not_tested, "9f86d081884c7d65", "no patient of the group"):
        assert part in text
    assert text.count("\n### ") == len(report.figures)
    for table in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.strip().split("\n")}) == 1


@pytest.mark.parametrize("suffix", [".pdf", "", ".txt"])
def test_unknown_suffix_is_refused(report, tmp_path, suffix):
    with pytest.raises(SettingsError, match=r"\.html, \.json or \.md"):
        report.save(tmp_path / f"report{suffix}")


def test_empty_report_makes_a_page():
    text = to_html(Report("nothing"))
    assert "No verdict" in text and Outline(text).open == []
    assert to_markdown(Report("nothing")).startswith("# nothing")


HARD = {
    "no panels": ("curves", {"panels": []}),
    "no points": ("curves", {"panels": [{"title": "", "series": [{"name": "synthetic", "x": [], "y": []}]}]}),
    "nulls": ("curves", {"panels": [{"series": [{"name": "synthetic", "x": [None, 1], "y": [1, None]}]}]}),
    "no bars": ("bars", {"panels": [{"title": "x", "labels": [], "series": []}]}),
    "null bars": ("bars", {"panels": [{"labels": ["a", "b"], "series": [{"name": "a", "values": [None, 1]}]}]}),
    "empty matrix": ("matrix", {"panels": [{"rows": [], "columns": [], "values": []}]}),
    "null matrix": ("matrix", {"panels": [{"rows": ["a"], "columns": ["a"], "values": [[None]]}]}),
    "one state": ("graph", {"panels": [{"states": ["a"], "probability": [[1.0]]}]}),
    "null graph": ("graph", {"panels": [{"states": ["a", "b"], "probability": [[None, None], [0.5, 0.5]]}]}),
    "many states": ("graph", {"panels": [{"states": list("abcdefghijkl"), "probability": np.eye(12).tolist()}]}),
    "bare patient": ("timeline", {"patients": [{"title": "p", "facts": [], "series": [], "events": []}]}),
    "only events": (
        "timeline",
        {"patients": [{"title": "p", "series": [], "events": [{"time": i, "label": str(i % 30)} for i in range(60)]}]},
    ),
    "no points scatter": ("scatter", {"panels": [{"series": [{"name": "synthetic", "x": [], "y": []}]}]}),
    "empty table": ("table", {"columns": [], "rows": []}),
}


@pytest.mark.parametrize("name", HARD)
def test_sparse_figures_are_drawn(name):
    kind, content = HARD[name]
    report = Report("t", figures=(Figure(kind, "f", content),))
    text = to_html(report)
    assert "could not be drawn" not in text
    assert Outline(text).wrong == []
    assert to_markdown(report)


def test_broken_figure_says_so_and_the_report_lives():
    text = to_html(Report("t", figures=(Figure("curves", "f", {"nothing": 1}), Figure("pie", "g", {}))))
    assert "could not be drawn" in text and "There is no drawing" in text


def test_a_real_patient_is_never_drawn():
    content = {"patients": [{"title": "p", "origin": "real", "facts": ["secret"], "series": [], "events": []}]}
    parts = figure_parts(Figure("timeline", "f", content), 1)
    assert parts["patients"] == [] and parts["trouble"]


def test_marks_stand_in_proportion_on_the_axis():
    score = Score("s", "g", 0.02, interval=(0.01, 0.03), limit=0.05, floor=0.01, anchors={"independent": 0.1})
    text = axis_svg(score)
    value = float(re.search(r'class="value" cx="([\d.]+)"', text)[1])
    limit = float(re.search(r'class="limit" d="M([\d.]+)', text)[1])
    # 0 stands at the left end, so value : limit = 2 : 5
    assert (value - LEFT) / (limit - LEFT) == pytest.approx(0.4, abs=0.01)
    assert 'class="arrow"' not in text


def test_far_anchor_stands_beyond_a_break():
    score = Score("s", "g", 0.02, limit=0.05, floor=0.01, anchors={"independent": 5.0, "bootstrap": 0.01})
    text = axis_svg(score)
    assert 'class="arrow"' in text
    ends = [float(x) for x in re.findall(r'class="limit" d="M([\d.]+)', text)]
    assert max(ends) <= RIGHT - 20


@pytest.mark.parametrize("goal", list(Goal))
@pytest.mark.parametrize("value", [None, float("nan"), 0.0, -3.0, 1e-12, 1e9])
def test_axis_of_any_value_is_finite(goal, value):
    score = Score("s", "g", value, goal=goal, limit=0.5, floor=None, anchors={"bootstrap": None, "independent": -1e6})
    assert "nan" not in axis_svg(score).lower().replace("independent", "")


def test_marks_differ_in_shape():
    marks = [re.sub(r'class="[^"]*"', "", mark_svg(m)) for m in ("value", "limit", "floor", "bootstrap", "independent")]
    assert len(set(marks)) == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.04149, "0.0415"),
        (12.345, "12.3"),
        (1234.5, "1,234"),
        (12345, "12,345"),
        (None, "–"),
        (0.0, "0"),
        (True, "yes"),
    ]
    + [(1e-7, "1.00e-07"), (float("inf"), "–"), ({"a": 0.5}, "a: 0.500"), ([1, 2], "1, 2"), (-0.25, "-0.250")],
)
def test_numbers_read_as_people_write_them(value, text):
    assert say(value) == text


def test_details_become_tables():
    details = {"worst": "x", "columns": {"x": {"d": 1}, "y": {"n": 2}}, "rows": [{"a": 1}, {"b": 2}], "flat": {"p": 1}}
    assert as_tables(details) == [
        ("", ["", "value"], [["worst", "x"]]),
        ("columns", ["", "d", "n"], [["x", 1, None], ["y", None, 2]]),
        ("rows", ["a", "b"], [[1, None], [None, 2]]),
        ("flat", ["", "value"], [["p", 1]]),
    ]


@pytest.mark.parametrize("goal", Goal)
def test_verdict_of_numpy_numbers_is_a_plain_bool(goal):
    # numpy.False_ is not False: a report would have lost the failure
    value = 0.0 if goal is Goal.HIGH else 1.0
    for kind in (np.float64, np.float32):
        score = Score("x", "g", kind(value), goal=goal, limit=kind(0.5))
        assert score.passed is False
        assert Report("r", (score,)).passed is False
        assert Report("r", (score,)).failed == (score,)


def test_a_value_on_its_limit_passes_whatever_its_last_bit():
    """A mean of three distances printed "0.021 (limit 0.021)" and failed."""
    assert Score("KS", "temporal", 1 / 48, limit=(1 / 32 + 1 / 32 + 0.0) / 3).passed is True
    assert Score("KS", "temporal", (0.03125 + 0.03125) / 3, limit=0.02083333333333333).passed is True
    assert Score("share", "realism", 0.3 - 1e-17 * 8, limit=0.1 + 0.2, goal=Goal.HIGH).passed is True
    assert Score("KS", "temporal", 0.0209, limit=0.0208).passed is False
