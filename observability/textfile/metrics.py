#!/usr/bin/env python3
"""Write metrics of Slurm, or of training programs, as a file for the textfile collector of node_exporter.

Needs only Python and, for Slurm, sinfo and squeue. Run it every minute, for example by cron.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# Metric → its help text. All are gauges.
METRICS: Mapping[str, str] = {
    "slurm_up": "1 if the controller of Slurm answered",
    "slurm_nodes": "nodes of a partition in a state",
    "slurm_jobs": "jobs of a partition in a state",
    "slurm_job_nodes": "nodes that the jobs of a partition in a state have or wait for",
    "slurm_gpus": "GPUs of a node",
    "slurm_gpus_allocated": "GPUs of a node that jobs have",
    "training_step": "last step that the program reported",
    "training_restart": "restarts of the program before that step",
    "training_loss": "loss at that step",
    "training_step_seconds": "duration of that step",
    "training_throughput": "units of that step per second, in the unit of the program",
    "training_report_timestamp_seconds": "time of that report",
}
_KEYS = {
    "step": "step",
    "restart": "restart",
    "loss": "loss",
    "seconds": "step_seconds",
    "throughput": "throughput",
}
_TIMEOUT_S = 30
_TAIL = 4096  # bytes at the end of a file, which contain its last line
_GPUS = re.compile(r"gpu:(?:[^:,()]+:)?(\d+)")

Sample = tuple[str, Mapping[str, str], float]


def slurm_samples() -> list[Sample]:
    """Return the samples of Slurm; slurm_up 0 alone if the controller gives no valid answer."""
    try:
        nodes = _asked("sinfo", "--noheader", "--format=%R|%T|%D")
        jobs = _asked("squeue", "--noheader", "--noconvert", "--format=%P|%T|%D")
        gpus = _asked("sinfo", "--noheader", "--Node", "--Format=NodeList:100,Gres:100,GresUsed:100")
        return [("slurm_up", {}, 1), *_nodes(nodes), *_jobs(jobs), *_gpus(gpus)]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return [("slurm_up", {}, 0)]


def _asked(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    return [line for line in done.stdout.splitlines() if line.strip()]


def _nodes(lines: Sequence[str]) -> Iterator[Sample]:
    found: Counter[tuple[str, str]] = Counter()
    for line in lines:
        partition, state, count = line.split("|")
        # A sign after the state says, for example, that a node does not answer or saves power.
        found[partition, re.sub(r"\W+$", "", state)] += int(count)
    for (partition, state), total in sorted(found.items()):
        yield "slurm_nodes", {"partition": partition, "state": state}, total


def _jobs(lines: Sequence[str]) -> Iterator[Sample]:
    jobs: Counter[tuple[str, str]] = Counter()
    nodes: Counter[tuple[str, str]] = Counter()
    for line in lines:
        partition, state, count = line.split("|")
        jobs[partition, state.lower()] += 1
        nodes[partition, state.lower()] += int(count)
    for name, found in (("slurm_jobs", jobs), ("slurm_job_nodes", nodes)):
        for (partition, state), total in sorted(found.items()):
            yield name, {"partition": partition, "state": state}, total


def _gpus(lines: Sequence[str]) -> Iterator[Sample]:
    """Yield the GPUs of each node; a node of several partitions has several lines."""
    found = {line.split()[0]: line.split()[1:3] for line in lines}
    for node, (all_of, used) in sorted(found.items()):
        if _GPUS.search(all_of):
            for name, text in (("slurm_gpus", all_of), ("slurm_gpus_allocated", used)):
                yield name, {"slurm_node": node}, sum(int(count) for count in _GPUS.findall(text))


def training_samples(runs: Sequence[tuple[str, Path]]) -> Iterator[Sample]:
    """Yield the last report of each run: the last whole line of the file of the program's --metrics."""
    for run, path in runs:
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL))
                lines = file.read().split(b"\n")[:-1]
                changed_s = os.fstat(file.fileno()).st_mtime
            report = json.loads(lines[-1]) if lines else {}
            values = {name: float(report[key]) for key, name in _KEYS.items() if report.get(key) is not None}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            print(f"error: {path}: {error}", file=sys.stderr)
            continue
        if values:
            values["report_timestamp_seconds"] = changed_s
        for name, value in values.items():
            yield f"training_{name}", {"run": run}, value


def text_of(samples: Sequence[Sample]) -> str:
    lines = []
    for name, text in METRICS.items():
        own = [(labels, value) for found, labels, value in samples if found == name]
        if own:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge"]
        for labels, value in own:
            pairs = ",".join(
                f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in labels.items()
            )
            lines.append(f"{name}{{{pairs}}} {value:.15g}" if pairs else f"{name} {value:.15g}")
    return "".join(f"{line}\n" for line in lines)


def write(path: Path, text: str) -> None:
    """Replace the file at once, because the collector may read it at any time."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.chmod(0o644)
    draft.replace(path)


def _run(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE, not '{text}'")
    return name, Path(path)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Write metrics for the textfile collector of node_exporter.")
    parser.add_argument("source", choices=("slurm", "training"))
    parser.add_argument(
        "--run",
        action="append",
        default=[],
        type=_run,
        metavar="NAME=FILE",
        help="training: name of a run, and the file of its program's --metrics",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="(default: standard output)")
    options = parser.parse_args(argv)
    if (options.source == "training") != bool(options.run):
        parser.error("training needs --run NAME=FILE" if not options.run else "--run is for training")
    samples = slurm_samples() if options.source == "slurm" else list(training_samples(options.run))
    text = text_of(samples)
    if options.output:
        try:
            write(options.output, text)
        except OSError as error:
            parser.exit(3, f"error: {options.output}: {error.strerror}\n")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
