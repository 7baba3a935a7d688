"""Format the final output of commands: summaries and errors."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.errors import FactoryError
from builder.model import LayerResult, Publication, Receipt, Report
from builder.screen.attempt import Attempt, attempt_of
from builder.screen.text import (
    STYLE_OF_OUTCOME,
    Look,
    cells,
    clean,
    clean_lines,
    clip,
    coloured,
    count,
    duration,
    pad,
    size,
    transferred,
    wrap,
)

_PLAIN = Look()
_LABEL_WIDTH = 11
_LONG_WORD = re.compile(r"(\S{200})\S{200,}(\S{40})")
_MOST_NAMES = 200  # characters
_MOST_PROBLEMS = 20
_OUTCOMES = ("built", "pulled", "reused", "failed", "stopped", "not reached")
_VERDICTS = {
    "ready": ("passed", "is ready"),
    "unchecked": ("skipped", "is built, but not checked"),
    "failed": ("failed", "failed"),
}


def summary(
    outcome: Receipt | Attempt,
    *,
    look: Look = _PLAIN,
    report_path: Path | None = None,
    next_command: str = "",
) -> str:
    """Format the summary of a build: image, layers, checks, publications and next command."""
    attempt = attempt_of(outcome) if isinstance(outcome, Receipt) else outcome
    symbol, words = _VERDICTS[attempt.verdict]
    style = STYLE_OF_OUTCOME[symbol]
    head = look.paint(f"{look.symbol(symbol)} {attempt.plan.target.name} {words}", style)
    took = duration(attempt.seconds) if attempt.seconds or attempt.error else "reused"
    lines = ["", head + look.paint(f" · {took}", "dim"), ""]
    sections = [
        ("image", [attempt.name] if attempt.name else []),
        ("layers", _layers(attempt, look)),
        ("checks", _checks(attempt.report, look)),
        ("published", _published(attempt.published) if attempt.published else []),
        ("before", [f"{item.name}, published {item.created}" for item in attempt.published_before]),
        ("report", [str(report_path)] if report_path else []),
        ("next", [look.paint(next_command, "bold")] if next_command else []),
    ]
    for label, content in sections:
        for index, text in enumerate(content):
            name = pad(label if index == 0 else "", _LABEL_WIDTH)
            lines.append(f"  {look.paint(name, 'dim')}{text}".rstrip())
    return look.plain(coloured("\n".join([*lines, ""])))


def _layers(attempt: Attempt, look: Look) -> list[str]:
    """Return the summary of the layers: counts, a line per built layer, a line with all reused layers."""
    made, reused = (
        attempt.layers_with("built", "pulled", "failed", "stopped"),
        attempt.layers_with("reused", "present"),
    )
    total = sum(layer.size_bytes for layer in attempt.layers)
    counts = Counter(layer.outcome for layer in attempt.layers)
    counts["not reached"] = len(attempt.expected) - len(attempt.layers)
    words = [f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if counts[outcome]]
    lines = [", ".join(words) + (look.paint(f" · {size(total)}", "dim") if total else "")]
    name_width = max((cells(layer.name) for layer in made), default=0)
    for layer in made:
        lines += _layer(layer, min(name_width, 24), look)
    if reused and made:
        room = look.width - _LABEL_WIDTH - 12
        names = wrap(", ".join(layer.name for layer in reused), max(room, 20))
        lines.append(look.paint(f"{look.symbol('reused')} reused  {names[0]}", "dim"))
        lines += [look.paint(f"          {name}", "dim") for name in names[1:]]
    return lines


def _layer(layer: LayerResult, name_width: int, look: Look) -> list[str]:
    style = STYLE_OF_OUTCOME.get(layer.outcome, "")
    weight = size(layer.size_bytes) if layer.size_bytes else ""
    took = duration(layer.seconds)
    left = f"{pad(layer.name, name_width)} {pad(took, 10, right=True)} {pad(weight, 8, right=True)}"
    indent = 10 + cells(left)
    reasons = wrap(layer.reason, max(look.width - _LABEL_WIDTH - indent - 4, 16))
    symbol = look.paint(f"{look.symbol(layer.outcome)} {pad(layer.outcome, 6)}", style)
    first = f"{symbol}  {left}  {look.paint(reasons[0], 'dim')}"
    return [first, *(" " * (indent + 2) + look.paint(reason, "dim") for reason in reasons[1:])]


def _checks(report: Report | None, look: Look) -> list[str]:
    if report is None:
        return ["not run"]
    skips = Counter(
        check.message or "no reason given" for check in report.checks if check.outcome == "skipped"
    )
    words = [
        look.paint(f"{report.count(outcome)} {outcome}", STYLE_OF_OUTCOME[outcome])
        for outcome in ("passed", "failed", "skipped")
        if report.count(outcome)
    ]
    lines = [(", ".join(words) or "none") + look.paint(f" · {duration(report.seconds)}", "dim")]
    for check in report.checks:
        if check.outcome == "failed":
            room = max(look.width - _LABEL_WIDTH - 6, 20)
            what, *rest = wrap(f"{check.component}: {check.name}: {clean(check.reason)}".rstrip(": "), room)
            lines += [look.paint(f"{look.symbol('failed')} {what}", "bad"), *(f"  {line}" for line in rest)]
    lines += [
        look.paint(f"{look.symbol('skipped')} {number} skipped: {why}", "dim")
        for why, number in skips.items()
    ]
    return lines


def _published(publications: Sequence[Publication]) -> list[str]:
    pushed = sum(publication.pushed_bytes for publication in publications)
    reused = sum(publication.reused_bytes for publication in publications)
    took = sum(publication.seconds for publication in publications)
    names = dict.fromkeys(tag for item in publications for tag in item.tags)
    words = " · ".join(filter(None, (transferred(pushed, reused), duration(took))))
    # SSM parameters are long and get a line each; tags share a line.
    if any(name.startswith("/") for name in names):
        return [words, *names]
    return [f"{words} · tags: {', '.join(names)}" if names else words]


def error(err: FactoryError) -> str:
    """Format an error for the terminal: message, indented details, hint. Very long values are shortened."""
    lines = [f"error: {_shortened(clean_lines(err.message))}"]
    lines += [f"  {clean(line)}".rstrip() for line in err.details.splitlines()]
    if err.hint:
        lines.append(f"hint: {_shortened(clean_lines(err.hint))}")
    return "\n".join(lines)


def _shortened(text: str) -> str:
    """Cut the middle out of words that are longer than any path or name, such as the content of a file."""
    return _LONG_WORD.sub(lambda match: f"{match[1]}…{match[2]}", text)


def unusable(broken: Mapping[str, Sequence[str]]) -> str:
    """Format the problems of a catalog whose broken entries are left out; "" if there are none."""
    if not broken:
        return ""
    targets = sorted(Path(file).stem for file in broken if file.startswith("targets/"))
    names = clip(", ".join(targets), _MOST_NAMES) or "no target"
    lines = sorted({problem for problems in broken.values() for problem in problems})
    cut = len(lines) - _MOST_PROBLEMS
    more = [f"… and {cut} more"] if cut > 0 else []
    shown = [f"  {clean(line)}" for line in (*lines[:_MOST_PROBLEMS], *more)]
    return "\n".join([f"warning: catalog: {count(len(lines), 'problem')}; left out: {names}", *shown])
