"""Render the report of a built or failed target as one self-contained HTML file."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder import __version__
from builder.events import Event
from builder.model import Receipt, Report
from builder.screen import sections
from builder.screen.attempt import Attempt, attempt_of
from builder.screen.markup import Markup, breakable, join, tag
from builder.screen.steps import Board
from builder.screen.text import count, duration, short, size

_CSS = Path(__file__).with_name("report.css")
# Content security policy that forbids scripts and resources, in case a name contains markup.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_VERDICTS = {"ready": "Ready", "unchecked": "Not checked", "failed": "Failed"}


def render(
    outcome: Receipt | Attempt,
    events: Sequence[Event] | None,
    environment: Mapping[str, str],
    *,
    versions: Mapping[str, str] | None = None,
) -> str:
    """Render the report of a run; `versions` has the versions found in the image, if they were checked."""
    attempt = attempt_of(outcome) if isinstance(outcome, Receipt) else outcome
    name = attempt.plan.target.name
    board = Board()
    for event in events or ():
        board.read(event)
    board.stop(board.last_s)
    board.keep(name)
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{name}: {_VERDICTS[attempt.verdict].lower()} ({attempt.run})"),
        tag("style", Markup(_CSS.read_text(encoding="utf-8"))),
    )
    main = tag(
        "main",
        _header(attempt),
        sections.problem(attempt, board),
        _figures(attempt, board),
        sections.layers(attempt) if attempt.layers or attempt.error else None,
        sections.timeline(board, attempt.plan),
        sections.checks(attempt.report),
        sections.publications(attempt),
        sections.versions(attempt.plan.versions, versions),
        sections.settings(attempt.plan.settings),
        _repeat(attempt),
        sections.environment(environment),
        sections.plan(attempt.plan),
    )
    footer = tag("footer", f"Image factory {__version__} · run {attempt.run}")
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', main, footer), lang='en')}\n"


def _header(attempt: Attempt) -> Markup:
    target = attempt.plan.target
    stamp = attempt.created.replace("T", " ").replace("Z", " UTC")
    facts = {
        "Date": tag("time", stamp, datetime=attempt.created),
        "Commit": tag(
            "code", attempt.commit[:12] + ("+" if attempt.commit.endswith("+") else "") or "unknown"
        ),
        "Stack": attempt.plan.stack.name,
        "System": f"{attempt.plan.system.name}, {attempt.plan.arch}",
        "Key": tag("code", short(attempt.plan.key), title=attempt.plan.key),
    }
    return tag(
        "header",
        tag("p", f"Image factory · {target.kind}", cls="eyebrow"),
        tag(
            "div",
            tag("h1", breakable(target.name)),
            tag("span", _VERDICTS[attempt.verdict], cls=f"verdict {attempt.verdict}"),
            cls="title",
        ),
        tag("p", target.summary, cls="lead"),
        tag("p", tag("code", breakable(attempt.name)), cls="digest", title="Select to copy")
        if attempt.name
        else None,
        tag(
            "dl", *(tag("div", tag("dt", key), tag("dd", value)) for key, value in facts.items()), cls="facts"
        ),
    )


def _figures(attempt: Attempt, board: Board) -> Markup:
    total = sum(layer.size_bytes for layer in attempt.layers)
    seconds = attempt.seconds or board.last_s - board.started_s
    counts = Counter(layer.outcome for layer in attempt.layers)
    counts["not reached"] = len(attempt.expected) - len(attempt.layers)
    rest = ", ".join(f"{number} {word}" for word, number in counts.items() if number and word != "built")
    figures = [
        _figure("Time", duration(seconds), f"for {count(len(board.rows), 'step')}" if board.rows else "")
    ]
    if attempt.layers or attempt.error:
        figures.append(_figure("Layers built", str(counts["built"]), rest))
    if total:
        figures.append(_figure("Size", size(total), f"in {count(len(attempt.layers), 'layer')}"))
    if attempt.report:
        figures.append(_checks(attempt.report))
    if attempt.published:
        sent = sum(item.pushed_bytes for item in attempt.published)
        present = sum(item.reused_bytes for item in attempt.published)
        names = {name for item in attempt.published for name in item.tags}
        if sent or present:
            figures.append(_figure("Pushed", size(sent), f"{size(present)} already in the registry"))
        else:
            figures.append(_figure("Published", str(len(names)), "SSM parameters"))
    return tag("dl", *figures, cls="figures")


def _checks(report: Report) -> Markup:
    passed, failed, skipped = (report.count(outcome) for outcome in ("passed", "failed", "skipped"))
    if failed:
        return _figure("Checks failed", str(failed), f"{passed} passed, {skipped} skipped", "bad")
    return _figure("Checks passed", str(passed), f"{skipped} skipped" if skipped else "all", "good")


def _figure(label: str, value: str, note: str, tone: str = "") -> Markup:
    words = (tag("b", word) if word[0].isdigit() else f" {word} " for word in value.split())
    return tag(
        "div",
        tag("dt", label),
        tag("dd", *words, cls=tone or None),
        tag("dd", note, cls="note") if note else None,
    )


def _repeat(attempt: Attempt) -> Markup:
    target = attempt.plan.target.name
    commit = attempt.commit.removesuffix("+")
    publish = " --publish" if attempt.published else ""
    commands = [
        ("Check out the sources", f"git checkout {commit}" if commit else ""),
        ("Show the plan", f"builder plan {target}"),
        ("Build again", f"builder build {target}{publish}"),
        ("Run the checks", f"builder check {attempt.name} --target {target}" if attempt.name else ""),
        ("Open a shell", f"docker run --rm -it {attempt.name} bash" if attempt.name else ""),
    ]
    rows = (
        tag("div", tag("dt", label), tag("dd", tag("code", command)))
        for label, command in commands
        if command
    )
    dirty = (
        "The checkout had uncommitted changes that are not part of this commit."
        if commit != attempt.commit
        else None
    )
    changed = tag("p", dirty, cls="note") if dirty else None
    return sections.section("Reproduce this build", tag("dl", *rows, cls="commands"), changed)
