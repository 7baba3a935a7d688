"""Expected values of checks: Ansible evaluates them for every role and system, as in a play."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import ansible
from builder import catalog
from builder.adapters.ansible import controller, runtime
from builder.adapters.host.workspace import Run, Workspace, open_run
from builder.errors import CheckError
from builder.model import Layer, Plan, Stack, System
from builder.plan import capabilities
from tests.support.repository import Repository

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "ansible" / "roles"
NAMES = tuple(sorted(role.name for role in ROLES.iterdir()))
SYSTEMS = sorted(
    {(system.distribution, system.release): system for system in catalog.load(ROOT).systems.values()}.items()
)
# Pattern of the variables that a check file reads from the fixture `expected`.
READ = re.compile(r"variables(?:\[|\.get\()[\"']([a-z0-9_]+)[\"']")
# Values for required role variables that are not strings.
GIVEN: Mapping[str, Any] = {"dict": {}, "list": [], "bool": False, "int": 1}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the Ansible of this environment instead of installing the locked one."""
    folder = Path(ansible.__file__).parents[1]
    monkeypatch.setattr(runtime, "folder_of", lambda *_, **__: folder)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "test") as opened:
        yield opened


@cache
def read_yaml(path: Path) -> Any:
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def required(role: str) -> dict[str, Any]:
    options = read_yaml(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    return {
        name: option.get("choices", [GIVEN.get(option["type"], "1.2.3-4")])[0]
        for name, option in options.items()
        if option.get("required")
    }


def make_plan(repository: Repository, system: System, **variables: Any) -> Plan:
    """Return a plan of all components on one system, with a value for each required role variable."""
    stack = Stack(name="s", summary="", pins={"kernel": "6.1.0-50-amd64"})
    given = {name: value for role in NAMES for name, value in required(role).items()}
    layer = Layer(
        name="all",
        kind="components",
        key=f"{system.name}-{len(variables)}",
        parent="",
        inputs={},
        components=NAMES,
        variables=given | variables,
    )
    return dataclasses.replace(
        repository.plan(),
        system=system,
        stack=stack,
        components=NAMES,
        capabilities=capabilities(system, stack, kind="ami", arch="x86_64"),
        layers=(layer,),
    )


def files_of(role: str, system: System) -> dict[str, Any]:
    """Return the values in a role's files, merged with Ansible's documented precedence."""
    folder = ROLES / role
    release = folder / "vars" / f"{system.distribution}-{system.release}.yml"
    chosen = release if release.is_file() else folder / "vars" / f"{system.family}.yml"
    files = (folder / "defaults" / "main.yml", folder / "vars" / "main.yml", chosen)
    return {name: value for path in files for name, value in read_yaml(path).items()}


@pytest.mark.parametrize("system", [system for _, system in SYSTEMS], ids=lambda system: system.name)
def test_checks_get_the_values_that_roles_use(repository: Repository, run: Run, system: System) -> None:
    plan = make_plan(repository, system)
    values = controller.evaluate_variables(run, ROOT, plan)
    assert "{{" not in json.dumps(values)
    for role in NAMES:
        for check in (ROLES / role / "tests").glob("*.py"):
            read = set(READ.findall(check.read_text(encoding="utf-8")))
            assert {name for name in read - values.keys() if name.startswith(f"{role}_")} == set()
        literal = {
            name: value
            for name, value in (files_of(role, system) | required(role)).items()
            if "{{" not in json.dumps(value)
        }
        assert {name: values[name] for name in literal} == json.loads(json.dumps(literal))


def test_values_of_the_plan_override_values_of_the_role(repository: Repository, run: Run) -> None:
    system = SYSTEMS[0][1]
    plan = make_plan(repository, system, base_user="trainer")
    assert controller.evaluate_variables(run, ROOT, plan)["base_user"] == "trainer"


def test_role_variables_are_evaluated_again_only_after_a_change_of_their_inputs(
    repository: Repository, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def evaluate(*_: object) -> str:
        calls.append(1)
        return '{"base_user": "ml"}'

    monkeypatch.setattr(controller, "_evaluate", evaluate)
    roles, target = "ansible/roles", "catalog/targets/hello.toml"
    repository.write("ansible/expected.yml", "[]\n")
    for name, old, new, evaluated in (
        (target, 'summary = "says hello"', 'summary = "greets"', True),  # the first time
        (f"{roles}/base/tasks/main.yml", "[]", "[] # changed", False),
        (f"{roles}/base/templates/profile.j2", "user", "login", False),
        (f"{roles}/base/defaults/main.yml", "ml", "trainer", True),
        ("ansible/expected.yml", "[]", "[] # changed", True),
        (target, "[flavours", 'variables.base_user = "guest"\n[flavours', True),
    ):
        repository.replace(name, old, new)
        calls.clear()
        for _ in range(2):
            plan = repository.plan()
            assert controller.evaluate_variables(run, repository.root, plan) == {"base_user": "ml"}
        assert calls == [1] * evaluated, name


def test_reports_missing_role_variables(repository: Repository, run: Run) -> None:
    plan = make_plan(repository, SYSTEMS[0][1])
    bare = dataclasses.replace(plan, layers=(dataclasses.replace(plan.layers[0], variables={}),))
    with pytest.raises(CheckError, match="could not evaluate the variables") as caught:
        controller.evaluate_variables(run, ROOT, bare)
    assert "missing required arguments" in caught.value.details
