"""`python -m bench.traced FILE ARG...`: run `builder ARG...` and write the times of its engine calls to FILE.

Each line is a JSON object with thread, title, start and end of a call that no other timed call contains.
"""

import functools
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from builder.adapters.ansible import packages, playbook, runtime
from builder.adapters.container import images
from builder.adapters.engine.client import Engine
from builder.cli.main import main

RUN = "run the container"
CALLS: tuple[tuple[Any, str, str], ...] = (
    (packages, "mounts", "copy apt's files"),
    (packages, "keep", "keep new packages"),
    (playbook, "prepare", "verify Ansible"),
    (runtime, "ensure_compiled", "compile Ansible"),
    (images, "_run_in", "list or pack files"),
    (images, "write_archive", "write the configuration"),
    (Engine, "create", "create the container"),
    (Engine, "run_to_end", RUN),
    (Engine, "commit", "commit"),
    (Engine, "load", "load the configuration"),
    *((Engine, name, "other engine calls") for name in ("inspect_image", "tag", "remove_image", "layers")),
    (Future, "result", "wait for background work"),
)
_state = threading.local()
_lines: list[str] = []


def _timed(call: Callable[..., Any], title: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def run(*words: Any, **options: Any) -> Any:
        if getattr(_state, "is_timed", False):
            return call(*words, **options)
        _state.is_timed, began = True, time.time()
        try:
            return call(*words, **options)
        finally:
            _state.is_timed = False
            span = {"thread": threading.get_ident(), "title": title, "start": began, "end": time.time()}
            _lines.append(json.dumps(span))

    return run


def trace(output: Path, argv: list[str]) -> int:
    for owner, name, title in CALLS:
        setattr(owner, name, _timed(getattr(owner, name), title))
    try:
        return main(argv)
    finally:
        output.write_text("\n".join(_lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(trace(Path(sys.argv[1]), sys.argv[2:]))
