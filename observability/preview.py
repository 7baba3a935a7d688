#!/usr/bin/env python3
"""Write the panels of all dashboards as one static HTML page, with the data of a Prometheus server.

Shows the dashboards without Grafana, for example to attach them to a report. Needs only Python.
"""

import argparse
import html
import json
import math
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT = 560, 180
_STEPS = 120  # points of a series
_TIMEOUT_S = 10
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b", "#17becf", "#7f7f7f")
_STYLE = """\
body { font: 14px sans-serif; margin: 16px; max-width: 1200px }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(570px, 1fr)); gap: 16px }
figure { margin: 0; border: 1px solid #ccc; padding: 8px }
svg { width: 100%; background: #fafafa }
small { margin-right: 12px }
"""

Point = tuple[float, float]
Series = tuple[str, list[Point]]


def expression(text: str, variables: Sequence[str]) -> str:
    """Return a panel's expression with all values of the dashboard's variables, as Grafana asks for it."""
    for name in variables:
        text = text.replace(f"${name}", ".*")
    return text.replace("$__rate_interval", "1m").replace("$__interval", "1m")


def series_of(url: str, text: str, legend: str, *, end_s: float, minutes: float) -> list[Series]:
    """Ask the server for a range of the expression; raise OSError or ValueError if it refuses."""
    step_s = max(1.0, minutes * 60 / _STEPS)
    query = {"query": text, "start": end_s - minutes * 60, "end": end_s, "step": step_s}
    address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
        result = json.load(answer)["data"]["result"]
    return [(_legend(legend, entry["metric"]), _points(entry["values"])) for entry in result]


def _legend(text: str, labels: Mapping[str, str]) -> str:
    for name, value in labels.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text if "{{" not in text else ", ".join(f"{key}={value}" for key, value in labels.items())


def _points(values: Sequence[tuple[float, str]]) -> list[Point]:
    pairs = [(float(moment), float(value)) for moment, value in values]
    return [(moment, value) for moment, value in pairs if math.isfinite(value)]


def drawing(found: Sequence[Series], *, end_s: float, minutes: float) -> str:
    """Return an SVG with a line for each series."""
    values = [value for _, points in found for _, value in points]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    start_s = end_s - minutes * 60
    lines = [
        _text(4, 14, f"{high:.4g}"),
        _text(4, _HEIGHT - 4, f"{low:.4g}"),
    ]
    for i, (_, points) in enumerate(found):
        where = " ".join(
            f"{(moment - start_s) / (minutes * 60) * _WIDTH:.1f},"
            f"{_HEIGHT - 4 - (value - low) / (high - low) * (_HEIGHT - 20):.1f}"
            for moment, value in points
        )
        lines.append(f'<polyline fill="none" stroke="{_color(i)}" stroke-width="1.5" points="{where}"/>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(lines)}</svg>'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}" font-size="11" fill="#666">{text}</text>'


def _color(i: int) -> str:
    return _COLORS[i % len(_COLORS)]


def page(url: str, boards: Sequence[Mapping[str, Any]], *, end_s: float, minutes: float) -> str:
    """Return the page; raise OSError or ValueError if the server does not answer or refuses an expression."""
    parts = ["<!DOCTYPE html>", '<html lang="en"><meta charset="utf-8"><title>Dashboards</title>']
    parts.append(f"<style>{_STYLE}</style>")
    for board in boards:
        names = [variable["name"] for variable in board["templating"]["list"]]
        parts.append(f"<h1>{html.escape(board['title'])}</h1><section>")
        for panel in board["panels"]:
            parts += _panel(url, panel, names, end_s=end_s, minutes=minutes)
        parts.append("</section>")
    return "\n".join([*parts, "</html>", ""])


def _panel(
    url: str, panel: Mapping[str, Any], names: Sequence[str], *, end_s: float, minutes: float
) -> Iterator[str]:
    found = [
        entry
        for target in panel["targets"]
        for entry in series_of(
            url,
            expression(target["expr"], names),
            target["legendFormat"],
            end_s=end_s,
            minutes=minutes,
        )
        if entry[1]
    ]
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    yield f"<figure><figcaption><b>{html.escape(panel['title'])}</b> {html.escape(unit)}</figcaption>"
    yield drawing(found, end_s=end_s, minutes=minutes) if found else "<p>no data</p>"
    for i, (legend, points) in enumerate(found):
        text = html.escape(f"{legend}: {points[-1][1]:.6g}")
        yield f'<small style="color:{_color(i)}">{text}</small>'
    yield "</figure>"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description="Write all dashboards as HTML, with data of a Prometheus server."
    )
    parser.add_argument("url", metavar="URL", help="the server, for example http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=60, metavar="N", help="(default: %(default)s)")
    folder = Path(__file__).parent / "grafana" / "dashboards"
    parser.add_argument(
        "--dashboards", type=Path, default=folder, metavar="FOLDER", help="folder of the JSON files"
    )
    options = parser.parse_args(argv)
    if not 0 < options.minutes < 1e6:
        parser.error(f"--minutes {options.minutes:g}: must be above 0")
    try:
        boards = [json.loads(path.read_text()) for path in sorted(options.dashboards.glob("*.json"))]
        text = page(options.url, boards, end_s=time.time(), minutes=options.minutes)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", error)
        parser.exit(3, f"error: {options.url}: {reason}\nhint: curl {options.url}/-/ready\n")
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
