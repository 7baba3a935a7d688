"""Rules about imports in the product that import-linter contracts cannot express."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

# Permitted imports of `builder` modules inside functions; they speed up commands that do not need the module.
LAZY_IMPORTS = {
    "builder.cli.build": {"builder.app.reproduction"},
    "builder.adapters.engine.client": {"builder.adapters.engine.storage"},
    "builder.adapters.host.private": {"ctypes"},
    "builder.adapters.host.receipts": {"builder.adapters.host.checkout"},
    "builder.adapters.host.workspace": {"builder.adapters.host.process"},
    "builder.app.lanes.container": {"builder.app.lanes.container_work", "builder.app.lanes.publishing"},
    "builder.app.lanes.table": {"builder.app.lanes.ami", "builder.app.lanes.container"},
    "builder.app.session": {"builder.app.production"},
    # moto takes seconds to load; signal handlers and the log must be ready before moto is imported.
    "builder.rehearsal.ec2.backends": {"builder.rehearsal.stacks"},
    "builder.rehearsal.serve": {"builder.rehearsal.ec2.backends"},
    "builder.cli.main": {
        "builder",
        "builder.cli.defect",
        "builder.cli.unchanged",
        "builder.errors",
        "builder.screen.envelope",
        "builder.screen.streams",
        "builder.screen.summary",
        "builder.tables",
    },
}
# Third-party libraries that load slowly and that most commands do not need.
LAZY_LIBRARIES = {"boto3", "botocore", "docker", "isal", "pip", "requests", "rich", "tomli", "urllib3"}
LAZY_LIBRARIES |= {"moto", "yaml"}
# Slow modules of the standard library that a build without changes does not need.
LAZY_LIBRARIES |= {"shutil", "tarfile", "tempfile"}


def _modules(root: Path) -> dict[str, ast.Module]:
    found = {}
    for path in sorted((root / "builder").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def modules(root: Path) -> dict[str, ast.Module]:
    return _modules(root)


def _imported(tree: ast.AST, modules: Mapping[str, ast.Module]) -> Iterator[str]:
    """Yield the names of modules imported anywhere in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module


def _inside_functions(tree: ast.Module, modules: Mapping[str, ast.Module]) -> set[str]:
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for function in functions for name in _imported(function, modules)}


def test_imports_inside_functions_are_declared(modules: Mapping[str, ast.Module]) -> None:
    found = {}
    for name, tree in modules.items():
        lazy = {m for m in _inside_functions(tree, modules) if m.partition(".")[0] not in LAZY_LIBRARIES}
        if lazy:
            found[name] = lazy
    assert found == LAZY_IMPORTS


def test_modules_have_no_import_cycles(modules: Mapping[str, ast.Module]) -> None:
    """Imports inside functions count too, because they only hide a cycle."""
    arrows = {name: set(_imported(tree, modules)) & modules.keys() - {name} for name, tree in modules.items()}
    # Remove modules that import no remaining module, until only cycles and their importers remain.
    left = dict(arrows)
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    # Remove modules that import a cycle but are not part of it.
    while roots := [name for name in left if not any(name in targets for targets in left.values())]:
        for name in roots:
            del left[name]
    assert sorted(left) == []


def test_only_modules_of_app_lanes_depend_on_the_kind_of_a_target(root: Path) -> None:
    """A new kind of image must need only a lane (app/lanes), not changes in commands or the session."""
    paths = [
        path
        for folder in ("cli", "app", "adapters")
        for path in sorted((root / "builder" / folder).rglob("*.py"))
        if "lanes" not in path.parts
    ]
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in (*paths, root / "builder" / "pipeline.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare) and _names_a_kind(node)
    ]
    assert found == []


def _names_a_kind(node: ast.Compare) -> bool:
    words = [
        value.value
        for value in (node.left, *node.comparators)
        if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    return any(word in ("ami", "container") for word in words)
