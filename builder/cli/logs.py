"""`builder logs`: lists the runs of this checkout, and prints or follows the log of a run."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from builder.app.context import add_json, open_context, parser, print_json, print_table
from builder.app.runs import all_runs, find_run, log_lines
from builder.errors import UsageError
from builder.screen.text import duration


def options() -> argparse.ArgumentParser:
    found = parser("logs", "List the runs of this checkout, newest first; with RUN, print the log of one.")
    found.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="name of a run, or a part of it such as the target: the newest run that matches",
    )
    found.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="print new lines until the run ends (default: of the newest run)",
    )
    add_json(found)
    return found


def run(argv: Sequence[str]) -> int:
    parsed = options().parse_args(argv)
    if parsed.follow and parsed.json:
        raise UsageError(
            "builder logs: --follow and --json exclude each other",
            hint="events of a build as JSON: builder build TARGET --json",
        )
    workspace = open_context(parsed).workspace
    if parsed.run is None and not parsed.follow:
        runs = all_runs(workspace)
        if parsed.json:
            print_json(parsed, [dataclasses.asdict(run) for run in runs])
        elif runs:
            rows = [(run.name, run.command, run.targets, run.state, duration(run.seconds)) for run in runs]
            print_table(("run", "command", "targets", "state", "took"), rows)
        else:
            print("no run yet", file=sys.stderr)
        return 0
    found = find_run(workspace, parsed.run or "")
    lines = log_lines(workspace, found.name, follow=parsed.follow)
    if parsed.json:
        print_json(parsed, {**dataclasses.asdict(found), "log": list(lines)})
        return 0
    if found.name != parsed.run:
        print(f"run {found.name}", file=sys.stderr)
    for line in lines:
        print(line, flush=parsed.follow)
    return 0
