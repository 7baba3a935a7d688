"""Run the checks of a plan on a machine or in a container, with pytest and testinfra.

The check files are in the folders of the roles and the workload. They get expected values from the plan
through the fixture `expected` of `builder.adapters.checks.expected`.
"""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from builder.adapters.ansible.controller import evaluate_variables
from builder.adapters.checks.expected import SKIP_PREFIX, VARIABLE
from builder.adapters.host import process
from builder.adapters.host.workspace import Run
from builder.errors import CheckError, UsageError
from builder.events import Stream
from builder.model import Check, Plan, Value

_TIMEOUT_S = 1200
# Output lines of pytest: the number of collected and selected checks, and the end of a check.
_COLLECTED = re.compile(r"collected (\d+) items?(?:.* / (\d+) selected)?")
_ENDED = re.compile(r"::\S+ (?:PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")
_NO_CHECK = 5  # exit code of pytest
# Environment variables that the pytest process inherits.
_KEPT = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV"),
        *("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"),
    }
)
# Pytest plugins to load; other installed plugins are not loaded: they may change the order of checks.
_PLUGINS = (
    *("no:cacheprovider", "testinfra.plugin"),
    *("builder.adapters.checks.expected", "builder.adapters.checks.shell"),
)


def run_checks(
    run: Run,
    root: Path,
    events: Stream,
    plan: Plan,
    folders: list[Path],
    host: str,
    *,
    environment: Mapping[str, str],
    options: Sequence[str] = (),
    capabilities: Mapping[str, Value] | None = None,
) -> tuple[Check, ...]:
    """Run the checks in these folders in a pytest subprocess; `host` is the testinfra URL of the machine.

    `capabilities` has the capabilities of the machine, in addition to those of the plan.
    """
    name = plan.target.name
    results = run.folder / f"checks-{name}.xml"
    expected = run.scratch / f"expected-{name}.json"
    expected.write_text(
        json.dumps(
            {
                "versions": plan.versions,
                "variables": evaluate_variables(run, root, plan),
                "capabilities": {
                    **plan.capabilities,
                    "is_for_nvidia_gpus": plan.stack.facts.get("accel") == "nvidia",
                    **(capabilities or {}),
                },
                "components": plan.components,
            }
        ),
        encoding="utf-8",
    )
    argv = [
        *(sys.executable, "-m", "pytest", *(word for name in _PLUGINS for word in ("-p", name))),
        *("-c", "/dev/null", "--rootdir", str(root), "--import-mode=importlib"),
        *("-v", "--color=no", "--tb=short"),
        *(f"--hosts={host}", *options, f"--junitxml={results}", *map(str, folders)),
    ]
    done = process.run(
        argv,
        timeout_s=_TIMEOUT_S,
        cancelled=run.cancelled,
        on_line=_listener(events, f"{name}/checks"),
        env={**_needed(environment), VARIABLE: str(expected)},
        cwd=root,
    )
    if done.code == _NO_CHECK and "-k" in options:
        raise UsageError(
            f"--only {options[-1]}: '{name}' has no component and no check with this name",
            hint=f"components: {', '.join(plan.components)}",
        )
    if done.code not in (0, 1) or not results.is_file():
        raise CheckError(
            f"the checks of '{name}' could not run (pytest exited with code {done.code})",
            hint="see the output and the command below",
            details=done.details,
        )
    return tuple(_read(results))


def _needed(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for pytest and its SSH and engine clients, without AWS credentials."""
    kept = {name: value for name, value in environment.items() if name in _KEPT}
    return {**kept, "LC_ALL": "C.UTF-8", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _listener(events: Stream, step: str) -> Callable[[str], None]:
    last, done, total = "", 0, 0

    def listen(line: str) -> None:
        nonlocal last, done, total
        events.emit("step.log", step=step, text=line)
        if found := _COLLECTED.search(line):
            total = int(found[2] or found[1])
        if not _ENDED.search(line):
            return
        done += 1
        events.emit("step.progress", step=step, done=done, total=total, unit="checks")
        component = line.partition("::")[0].rsplit("test_", 1)[-1].removesuffix(".py")
        if component != last:
            last = component
            events.emit("step.task", step=step, text=component)

    return listen


def _read(results: Path) -> Iterator[Check]:
    """Yield the checks of a JUnit file; a skip without a declared capability counts as a failure."""
    try:
        root = ET.parse(results).getroot()  # noqa: S314 (our own pytest has just written this file)
    except ET.ParseError as error:
        raise CheckError(
            f"the results of the checks are incomplete: {results}: {error}", hint=f"df -h {results.parent}"
        ) from error
    for case in root.iter("testcase"):
        problem = next((child for child in case if child.tag in ("failure", "error", "skipped")), None)
        outcome, message = "passed", ""
        if problem is not None:
            message = problem.get("message", "") or ""
            outcome = "skipped" if problem.tag == "skipped" else "failed"
            if outcome == "skipped" and not message.startswith(SKIP_PREFIX):
                outcome, message = "failed", f"skipped without a declared capability: {message}"
            elif outcome == "failed":
                message = (problem.text or message).strip()
        name = case.get("name", "").split("[")[0]
        component = case.get("classname", "").rsplit(".test_", 1)[-1].split(".")[0]
        yield Check(
            name=f"{component}::{name}",
            component=component,
            outcome=outcome,
            seconds=float(case.get("time", 0)),
            message=message,
        )
