"""Callback plugin that prints a play as NDJSON on stdout, one object per event.

Modules on the same machine write the progress of long downloads to it, too; warnings go to stderr. Ansible
has already censored results under `no_log`.

==========  ===================================================================
task        role, task
result      role, task, changed, seconds; skipped (only when true)
failed      role, task, seconds, message, details (end of stdout, stderr, traceback); url, expected and
            actual (if a download does not match its lock)
progress    done, total (bytes; written by module_utils/fetching.py)
recap       hosts: {name: {ok, changed, failed, unreachable, skipped}}, seconds
==========  ===================================================================
"""

from __future__ import annotations

import json
import time
from typing import Any

from ansible.executor.stats import AggregateStats
from ansible.executor.task_result import CallbackTaskResult
from ansible.playbook.task import Task

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: factory_events
type: stdout
short_description: One JSON object per event
description:
  - Prints tasks, results, failures and the recap as NDJSON on stdout.
"""

# Actions that only structure the play and change nothing on the machine; no events are printed for them.
SILENT_ACTIONS = frozenset(
    f"{prefix}{action}"
    for prefix in ("", "ansible.builtin.", "ansible.legacy.")
    for action in (
        "import_role",
        "import_tasks",
        "include_role",
        "include_tasks",
        "include_vars",
        "meta",
        "validate_argument_spec",
    )
)
MESSAGE_KEYS = ("censored", "msg", "reason")
DETAIL_KEYS = ("stdout", "stderr", "module_stdout", "module_stderr", "exception")
MISMATCH_KEYS = ("url", "expected", "actual")
DETAIL_CHARACTERS = 4000
# Ansible's placeholder for the traceback if a module reported its failure itself.
NO_TRACE = "(traceback unavailable)"


class CallbackModule(CallbackBase):
    """The stdout callback `factory_events`."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "factory_events"

    def __init__(self) -> None:
        super().__init__()
        self._play_start = time.monotonic()
        self._task_start = self._play_start

    def v2_playbook_on_task_start(self, task: Task, is_conditional: bool) -> None:  # noqa: ARG002, FBT001
        self._task_start = time.monotonic()
        if task.action not in SILENT_ACTIONS:
            self._emit("task", **describe(task))

    def v2_playbook_on_handler_task_start(self, task: Task) -> None:
        self.v2_playbook_on_task_start(task, is_conditional=False)

    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        self._handle_warnings(result.result)
        if result.task.action not in SILENT_ACTIONS:
            changed = result.is_changed()
            self._emit("result", **describe(result.task), changed=changed, seconds=self._seconds())

    def v2_runner_on_skipped(self, result: CallbackTaskResult) -> None:
        if result.task.action not in SILENT_ACTIONS:
            self._emit(
                "result", **describe(result.task), changed=False, seconds=self._seconds(), skipped=True
            )

    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:  # noqa: FBT001, FBT002
        if ignore_errors:
            self.v2_runner_on_ok(result)
        else:
            self._fail(result)

    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        self._fail(result)

    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        hosts = {host: rename(stats.summarize(host)) for host in sorted(stats.processed)}
        self._emit("recap", hosts=hosts, seconds=round(time.monotonic() - self._play_start, 3))

    def _fail(self, result: CallbackTaskResult) -> None:
        failure = first_failure(result.result)
        self._emit(
            "failed",
            **describe(result.task),
            seconds=self._seconds(),
            message=find_message(failure),
            details=collect_details(failure),
            **find_mismatch(failure),
        )

    def _seconds(self) -> float:
        return round(time.monotonic() - self._task_start, 3)

    def _emit(self, event: str, **fields: Any) -> None:
        self._display.display(json.dumps({"event": event, **fields}, ensure_ascii=False, default=str))


def describe(task: Task) -> dict[str, str]:
    role = task._role.get_name() if task._role else ""
    return {"role": role, "task": task.get_name().removeprefix(f"{role} : ")}


def first_failure(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of the first failed loop item, or of the task if it has no loop."""
    for item in result.get("results") or ():
        if isinstance(item, dict) and item.get("failed"):
            return item
    return result


def find_message(failure: dict[str, Any]) -> str:
    given = (str(failure.get(key) or "").strip() for key in MESSAGE_KEYS)
    return next(filter(None, given), "the task reported no message")


def collect_details(failure: dict[str, Any]) -> str:
    """Return the last characters of each output and of the traceback of a failed module."""
    if "censored" in failure:
        return ""
    texts = (str(failure.get(key) or "").strip() for key in DETAIL_KEYS)
    return "\n".join(text[-DETAIL_CHARACTERS:] for text in texts if text and text != NO_TRACE)


def find_mismatch(failure: dict[str, Any]) -> dict[str, str]:
    """Return the fields url, expected and actual if a download does not match its lock, otherwise {}."""
    found = {key: str(failure[key]) for key in MISMATCH_KEYS if failure.get(key)}
    return found if len(found) == len(MISMATCH_KEYS) else {}


def rename(summary: dict[str, int]) -> dict[str, int]:
    return {
        "ok": summary["ok"],
        "changed": summary["changed"],
        "failed": summary["failures"],
        "unreachable": summary["unreachable"],
        "skipped": summary["skipped"],
    }
