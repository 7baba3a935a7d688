"""Reads Ansible roles for tests: tasks, values of Jinja expressions, and functions of check files."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.filter import core, mathstuff
from jinja2 import Environment


def tasks_of(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the tasks of a task file, including tasks in blocks."""
    waiting = list(yaml.safe_load(path.read_text(encoding="utf-8")))
    while waiting:
        task = waiting.pop(0)
        waiting[:0] = [*task.get("block", ()), *task.get("rescue", ())]
        yield task


def task_of(path: Path, name: str) -> Mapping[str, Any]:
    return next(task for task in tasks_of(path) if task["name"] == name)


def evaluated(expression: str, **values: Any) -> Any:
    """Evaluate a Jinja expression with Ansible's filters; return its value."""
    environment = Environment(autoescape=True)
    environment.filters |= core.FilterModule().filters() | mathstuff.FilterModule().filters()
    environment.filters |= {name: listing(environment.filters[name]) for name in ("map", "reject", "select")}
    environment.tests |= {
        "match": lambda text, pattern: re.match(pattern, text) is not None,
        "search": lambda text, pattern: re.search(pattern, text) is not None,
    }
    # Unlike Jinja, Ansible keeps backslashes in strings.
    return environment.compile_expression(expression.replace("\\", "\\\\"))(**values)


def listing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a Jinja filter so that it returns a list instead of a generator, as in Ansible."""

    @wraps(function)
    def wrapped(*words: Any, **named: Any) -> list[Any]:
        return list(function(*words, **named))

    return wrapped


def functions_of(path: Path, wanted: set[str], names: dict[str, Any]) -> dict[str, Any]:
    """Return the `wanted` functions of a check file without decorators; `names` are their global names."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    kept = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    for node in kept:
        node.decorator_list.clear()
    exec(compile(ast.Module(body=list(kept), type_ignores=[]), str(path), "exec"), names)
    return names


def fails(check: Callable[[Any], None], host: Any) -> bool:
    """True if a check fails on a host."""
    try:
        check(host)
    except AssertionError:
        return True
    return False
