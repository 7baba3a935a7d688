"""Documentation of the Ansible modules: valid YAML that describes the arguments the module accepts."""

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml

MODULES = sorted((Path(__file__).resolve().parents[2] / "ansible" / "plugins" / "modules").glob("*.py"))
FIELDS = ("type", "required", "default", "elements", "choices")


def read_documentation(path: Path) -> dict[str, Any]:
    """Return DOCUMENTATION, EXAMPLES and RETURN of a module, parsed."""
    return {
        node.targets[0].id: yaml.safe_load(node.value.value)
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and node.targets[0].id in ("DOCUMENTATION", "EXAMPLES", "RETURN")
    }


def read_argument_spec(path: Path) -> dict[str, dict[str, Any]]:
    """Return the fields of each argument that a module passes to AnsibleModule in a literal argument_spec."""
    (spec,) = (
        keyword.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "argument_spec"
    )
    return select_fields(ast.literal_eval(spec))


def select_fields(options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the options without their descriptions and without undocumented fields such as `no_log`."""
    return {
        name: {field: option[field] for field in FIELDS if field in option}
        for name, option in options.items()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_documentation_is_valid_yaml(path: Path) -> None:
    found = read_documentation(path)
    assert set(found) == {"DOCUMENTATION", "EXAMPLES", "RETURN"}
    assert found["DOCUMENTATION"]["module"] == path.stem
    assert found["DOCUMENTATION"]["options"]


# `tree` is left out, because its action plugin accepts more options than its module.
@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.stem != "tree"], ids=lambda path: path.stem
)
def test_documented_options_equal_the_argument_spec(path: Path) -> None:
    options = read_documentation(path)["DOCUMENTATION"]["options"]
    assert select_fields(options) == read_argument_spec(path)
