"""Medians of the samples, and ratios of medians with their target values, as text, JSON and Markdown."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

BEGIN = "<!-- figures: written by `python -m bench --write-docs` -->"
END = "<!-- end of figures -->"
CASES = {
    "cold": "nothing built yet",
    "change": "one role of eight changed",
    "noop": "nothing changed",
    "serial": "four targets, one job",
    "parallel": "four targets, jobs = cores",
    "shared": "the layer that the four targets share",
    "checks": "checks of the image",
    "execs": "checks of the image, one docker exec per command",
    "ami": "AMI, one role of the last layer changed",
    "ami whole": "the same without checkpoints",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Timed build; `load` is the machine's load average before it."""

    case: str
    way: str
    round: int
    seconds: float
    load: float
    steps: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Aim:
    """Target for the ratio of two medians."""

    text: str
    over: tuple[str, str]  # case, way
    under: tuple[str, str]
    at_most: float | None = field(default=None, kw_only=True)
    at_least: float | None = field(default=None, kw_only=True)

    def is_met(self, ratio: float) -> bool:
        enough = self.at_least is None or ratio >= self.at_least
        return enough and (self.at_most is None or ratio <= self.at_most)

    @property
    def bound(self) -> str:
        return f"≤ {self.at_most:g}" if self.at_most is not None else f"≥ {self.at_least:g}"


AIMS = (
    Aim("cold build, to the Dockerfile", ("cold", "factory"), ("cold", "dockerfile"), at_most=0.95),
    Aim("one role changed, to the Dockerfile", ("change", "factory"), ("change", "dockerfile"), at_most=0.9),
    Aim("nothing changed, to the Dockerfile", ("noop", "factory"), ("noop", "dockerfile"), at_most=0.9),
    Aim("checks, to one docker exec per command", ("checks", "factory"), ("execs", "factory"), at_most=0.4),
    Aim("four targets, one job to all cores", ("serial", "factory"), ("parallel", "factory"), at_least=1.5),
    Aim("AMI, whole build to a checkpoint", ("ami whole", "factory"), ("ami", "factory"), at_least=3.0),
    Aim("size, to the Dockerfile", ("size", "factory"), ("size", "dockerfile"), at_most=1.0),
)


def summarize(
    samples: Sequence[Sample], sizes: Mapping[str, int], machine: Mapping[str, Any], titles: Mapping[str, str]
) -> dict[str, Any]:
    """Return all results of a run as JSON values."""
    medians = {
        case: {way: median(seconds) for way, seconds in _by_way(samples, case).items()}
        for case in CASES
        if _by_way(samples, case)
    }
    compared: dict[str, Mapping[str, float]] = {**medians, "size": sizes}
    ratios = []
    for aim in AIMS:
        over = compared.get(aim.over[0], {}).get(aim.over[1])
        under = compared.get(aim.under[0], {}).get(aim.under[1])
        if over and under:
            ratio = over / under
            ratios.append({"name": aim.text, "ratio": ratio, "aim": aim.bound, "met": aim.is_met(ratio)})
    return {
        "machine": dict(machine),
        "ways": dict(titles),
        "medians": medians,
        "sizes": dict(sizes),
        "ratios": ratios,
        "samples": [asdict(sample) for sample in samples],
    }


def _by_way(samples: Iterable[Sample], case: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for sample in samples:
        if sample.case == case:
            found.setdefault(sample.way, []).append(sample.seconds)
    return found


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _spread(result: Mapping[str, Any], case: str, way: str) -> str:
    """Return the median with range and number of samples: "1.23 (1.10 to 1.40, 3)"."""
    found = [s["seconds"] for s in result["samples"] if (s["case"], s["way"]) == (case, way)]
    if not found:
        return "= cold" if way == "packer" and case in ("change", "noop") else ""
    if len(found) == 1:
        return f"{_seconds(found[0])} (1)"
    return f"{_seconds(median(found))} ({_seconds(min(found))} to {_seconds(max(found))}, {len(found)})"


def rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a table with a column for each method and a row for each case; sizes come last."""
    ways = list(result["ways"])
    table = [["wall seconds: median (range, samples)", *(result["ways"][way] for way in ways)]]
    for case, title in CASES.items():
        if case in result["medians"]:
            table.append([title, *(_spread(result, case, way) for way in ways)])
    if result["sizes"]:
        table.append(["size of the image, MB", *(f"{result['sizes'].get(way, 0) / 1e6:.1f}" for way in ways)])
    return table


def ratio_rows(result: Mapping[str, Any]) -> list[list[str]]:
    table = [["ratio of medians", "measured", "aim", ""]]
    table += [
        [entry["name"], f"{entry['ratio']:.2f}", entry["aim"], "met" if entry["met"] else "missed"]
        for entry in result["ratios"]
    ]
    return table


def step_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Return a table with the median seconds of each step of the factory's cold build."""
    cold = [s for s in result["samples"] if (s["case"], s["way"]) == ("cold", "factory") and s["steps"]]
    if not cold:
        return []
    steps = {name: median(sample["steps"].get(name, 0.0) for sample in cold) for name in cold[0]["steps"]}
    rest = median(sample["seconds"] - sum(sample["steps"].values()) for sample in cold)
    named = [
        [name, _seconds(seconds)] for name, seconds in {**steps, "all else": rest}.items() if seconds > 0
    ]
    return [["step of a cold `builder build`", "seconds"], *named]


def describe(machine: Mapping[str, Any]) -> str:
    facts = (
        f"{machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB",
        f"engine {machine['engine']} on {machine['storage']}",
        f"Packer {machine['packer']}, Ansible {machine['ansible']}",
        f"load average {machine['load_before']:.1f} before and {machine['load_after']:.1f} after",
        f"{machine['rounds']} rounds, {machine['date']}",
    )
    return "; ".join(facts)


def as_text(result: Mapping[str, Any]) -> str:
    tables = [table for table in (rows(result), ratio_rows(result), step_rows(result)) if len(table) > 1]
    return "\n\n".join([*map(columns, tables), describe(result["machine"])])


def columns(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table]
    return "\n".join(line.rstrip() for line in lines)


def as_markdown(result: Mapping[str, Any]) -> str:
    tables = [table for table in (rows(result), ratio_rows(result), step_rows(result)) if len(table) > 1]
    return "\n\n".join([f"Measured on: {describe(result['machine'])}.", *map(_markdown_table, tables)])


def _markdown_table(table: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |" for row in table)
    return "\n".join([head, f"|{'---|' * len(table[0])}", *body])


def write_docs(result: Mapping[str, Any], page: Path) -> None:
    """Replace the text between the two markers of the page."""
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page}: no markers for the figures ({BEGIN} and {END})")
    figures = f"{BEGIN}\n\n{as_markdown(result)}\n\n{END}"
    page.write_text(pattern.sub(lambda _: figures, text), encoding="utf-8")


def save(result: Mapping[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
