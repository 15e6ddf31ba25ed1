"""The report on how well messages are told fails where a figure is worse than docs/detection.md tells."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from tale.learning.intent_data import LABELS, Example

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/detection.md").read_text(encoding="utf-8").partition("## How good it is")[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")


def rows_below(heading: str) -> list[list[float | None]]:
    """The figures of the table whose first line begins so, without the column of the messages; shares as shares."""
    lines = PAGE.partition(heading)[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")[2:]] for line in lines]
    return [[_figure(cell) for cell in row] for row in rows]


def _figure(cell: str) -> float | None:
    if not cell:
        return None
    return round(float(cell.removesuffix(" %")) / 100, 3) if cell.endswith("%") else float(cell)


def test_what_is_expected_is_what_the_page_tells() -> None:
    from detection_report import TOLD, Figures

    def told(figures: Figures) -> list[float | None]:
        return [figures.accuracy, figures.macro_f1, figures.calibration_error]

    (every, every_off), *others = TOLD.values()
    rows = [[*(told(on) if on != off else [None] * 3), *told(off)] for on, off in others]
    assert rows == rows_below("| measured on | messages |")
    actions = [on.actions for on, _ in TOLD.values() if on.actions is not None]
    assert actions == [row[0] for row in rows_below("| measured on | control messages |")]
    both = re.search(r"16,635\s+messages, [^.]*, it is ([\d.]+) %, with the encoder off ([\d.]+) %", PAGE)
    assert both and [_figure(f"{share} %") for share in both.groups()] == [every.accuracy, every_off.accuracy]


def test_a_figure_that_is_worse_by_more_than_a_point_is_missed() -> None:
    from detection_report import Figures, missed

    expected = Figures(0.9, 0.9, 0.02, 0.9)
    assert missed(expected, expected) == missed(Figures(0.895, 0.895, 0.025, 0.895), expected) == []
    assert missed(Figures(1.0, 1.0, 0.0, 1.0), expected) == []
    for name, worse, limit in (
        ("accuracy", 0.88, "at least 0.890"),
        ("macro_f1", 0.88, "at least 0.890"),
        ("calibration_error", 0.04, "at most 0.030"),
        ("actions", 0.88, "at least 0.890"),
    ):
        found = replace(expected, **{name: worse})
        assert missed(found, expected) == [f"{name} {worse:.3f}, but {limit} is expected"]


def test_the_report_fails_with_a_line_for_each_figure_that_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    from detection_report import Told, report

    other = dict(pairwise([*LABELS, LABELS[0]]))
    examples = [
        Example(f"{label} {n}", label, "hand", "phrasing", "en", "stop" if label == "control" else None)
        for label in LABELS
        for n in range(100)
    ]

    def ended(right: float) -> tuple[int, list[str]]:
        told = [
            Told(each, each.label if n % 100 < right * 100 else other[each.label], right, each.action, sure=1.0)
            for n, each in enumerate(examples)
        ]
        code = report([("Rules alone, kept out", told)], with_encoder=True)
        return code, [line for line in capsys.readouterr().out.splitlines() if line.startswith("MISSED")]

    assert ended(right=0.65) == (0, [])
    way = "MISSED: Rules alone, kept out"
    accuracy = f"{way}: accuracy 0.500, but at least 0.585 is expected"
    assert ended(right=0.5) == (1, [accuracy, f"{way}: macro_f1 0.500, but at least 0.595 is expected"])
