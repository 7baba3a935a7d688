"""HTML report: complete, self-contained, and safe against markup in names."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.model import Receipt
from builder.screen import report
from builder.screen.attempt import Attempt
from builder.screen.report import render
from builder.screen.steps import Board
from tests.unit.test_screen_attempt import (
    CHECKS,
    DIGEST,
    LAYERS,
    NAME,
    a_failure,
    a_plan,
    a_receipt,
    a_report,
    a_run,
    event,
    key_of,
)

HOSTILE = '<script>alert("x")</script>\'&amp;\x1b[31m'
ENVIRONMENT = {"Engine": "20.10.24", "Host": "Debian 12"}
VOID = {"meta", "wbr"}


class Page(HTMLParser):
    """Parsed elements and text of a page; fails if elements are not nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.words += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_report_contains_layers_checks_and_versions() -> None:
    page = Page(render(a_receipt(), a_run(), ENVIRONMENT))
    for name, _, components, outcome, reason, _, _ in LAYERS:
        assert all(word in page.words for word in (name, ", ".join(components), outcome, reason))
        assert key_of(name)[:12] in page.words
    for name, component, _, message in CHECKS:
        assert all(word in page.words for word in (name, component, message))
    for word in ("Ready", NAME, "38.4 s", "742 MB", "2.9.1", "20.10.24", "builder build cpu-ddp"):
        assert word in page.words


@pytest.mark.parametrize("outcome", [a_receipt(), a_failure()])
def test_report_loads_nothing_and_contains_no_scripts(outcome: Receipt | Attempt) -> None:
    text = render(outcome, a_run(), ENVIRONMENT)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "a", "base"} & {
        name for name, _ in page.elements
    }
    loading = {"src", "href", "srcset", "action", "background"}
    for name, attributes in page.elements:
        assert not loading & attributes.keys(), name
        assert not any(key.startswith("on") for key in attributes), name
    assert not re.search(r"https?://|url\(|@import", text)
    assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.named("meta"))


def test_settings_for_jobs_are_shown_by_instance_type() -> None:
    settings = {"p5.48xlarge": ("A=1", "sysctl b=2"), "*": ("C=3",)}
    plan = dataclasses.replace(a_plan(), settings=settings)
    shown = Page(render(a_receipt(plan=plan), [], {})).words
    for word in ("Settings for jobs", "p5.48xlarge", "A=1, sysctl b=2", "any instance type", "C=3"):
        assert word in shown
    assert "Settings for jobs" not in Page(render(a_receipt(), [], {})).words


def test_markup_in_names_is_escaped() -> None:
    receipt = a_receipt(
        plan=dataclasses.replace(
            a_plan(target=HOSTILE, layers=("base", HOSTILE)),
            versions={HOSTILE: HOSTILE},
            settings={HOSTILE: (HOSTILE,)},
        ),
        report=a_report(
            [(HOSTILE, HOSTILE, outcome, HOSTILE) for outcome in ("passed", "failed", "skipped")]
        ),
    )
    receipt = dataclasses.replace(
        receipt,
        run=HOSTILE,
        created=HOSTILE,
        commit=HOSTILE,
        publications=(dataclasses.replace(receipt.publications[0], name=HOSTILE, tags=(HOSTILE,)),),
        artifact=dataclasses.replace(
            receipt.artifact,
            layers=(dataclasses.replace(receipt.artifact.layers[0], outcome=HOSTILE, reason=HOSTILE),),
        ),
    )
    events = [
        event("step.start", 0, HOSTILE, HOSTILE, target=HOSTILE, key=HOSTILE),
        event("step.log", 0, HOSTILE, HOSTILE),
        event("step.end", 1, HOSTILE, HOSTILE, outcome="failed", seconds=1),
    ]
    failed = dataclasses.replace(
        a_failure(BuildError(HOSTILE, hint=HOSTILE, details=HOSTILE)), run=HOSTILE, plan=receipt.plan
    )
    for outcome in (receipt, failed):
        text = render(outcome, events, {HOSTILE: HOSTILE}, versions={HOSTILE: HOSTILE})
        assert Page(text).named("script") == []
        assert "<script" not in text
        assert "\x1b" not in text
        assert "alert(&quot;x&quot;)" in text


def test_failed_build_shows_the_error_and_the_layers_not_reached() -> None:
    page = Page(render(a_failure(), a_run(), ENVIRONMENT))
    for words in ("layer 'python': pip refused torch", "builder lock", "want 1\nhave 2"):
        assert words in page.words
    assert "ERROR: hashes do not match" in page.words
    assert page.words.count("not reached") == 1 + 3
    assert "Ready" not in page.words


def test_failed_checks_are_expanded_and_show_their_message() -> None:
    message = "E   assert 1 == 2\nE    +  where 1 = one()"
    page = Page(render(a_receipt(report=a_report([*CHECKS, ("t", "efa", "failed", message)])), None, {}))
    opened = [
        details
        for details in page.named("details")
        if details.get("class") == "component" and "open" in details
    ]
    assert len(opened) == 1
    assert message in page.words
    assert "Checks failed1" in page.words


def test_parallel_steps_overlap_in_the_timeline() -> None:
    events = [
        event("run.start", 0, text="builder build"),
        event("step.start", 0, "a", "left"),
        event("step.start", 5, "b", "right"),
        event("step.end", 10, "a", outcome="built", seconds=10.0),
        event("step.end", 20, "b", outcome="built", seconds=15.0),
        event("run.end", 20, ok=True, seconds=20),
    ]
    bars = Page(render(a_receipt(), events, {})).named("i")
    styles = [bar["style"] for bar in bars if bar.get("style")]
    assert styles == ["left:0.00%;width:50.00%", "left:25.00%;width:75.00%"]


def test_reused_step_shows_its_time_only_if_it_waited() -> None:
    board = Board()
    for seconds, step in ((0.002, "a"), (40.0, "b")):
        board.read(event("step.start", 0, step, "layer"))
        board.read(event("step.end", seconds, step, outcome="reused", seconds=seconds))
    assert [row.took_s for row in board.rows.values()] == [0.0, 40.0]


def test_version_that_differs_from_the_plan_is_marked() -> None:
    page = Page(render(a_receipt(), None, {}, versions={"openmpi": "4.1.5", "torch": "2.9.1"}))
    assert [div for div in page.named("div") if div.get("class") == "differs"] == [{"class": "differs"}]
    assert "4.1.5 (plan: 4.1.4-3)" in page.words


@pytest.mark.parametrize("span", [0.0, 0.0004, 0.065, 1, 9.99, 61, 3700, 100_000])
def test_timeline_of_any_length_has_few_ticks(span: float) -> None:
    events = [
        event("step.start", 0, "a", "layer"),
        event("step.end", span, "a", outcome="built", seconds=span),
    ]
    page = Page(render(a_receipt(), events, {}))
    marks = [mark for mark in page.named("span") if (mark.get("style") or "").startswith("left:")]
    assert 1 <= len(marks) <= 13


def test_unpublished_image_is_shown_by_its_engine_id() -> None:
    unpublished = dataclasses.replace(a_receipt(), publications=())
    words = Page(render(unpublished, None, {})).words
    assert NAME not in words
    assert DIGEST in words


def luminance(colour: str) -> float:
    channels = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_contrast_meets_wcag_aa(scheme: int) -> None:
    css = (Path(report.__file__).parent / "report.css").read_text()
    block = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block))
    pairs = [(name, f"{name}-tint") for name in ("good", "bad", "warn", "work")]
    pairs += [(ink, ground) for ink in ("ink", "soft") for ground in ("paper", "sunk", "raised", "dim-tint")]
    pairs += [("paper", name) for name in ("good", "bad", "warn", "work")] + [("ink", "bad-tint")]
    weak = {pair for pair in pairs if contrast(colours[pair[0]], colours[pair[1]]) < 4.5}
    assert weak == set()
