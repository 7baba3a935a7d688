"""`builder role`: the plan of components, the machine of a molecule scenario, and the idempotence check."""

from pathlib import Path
from typing import Any

import pytest

from builder.adapters.ansible.apply import Applied
from builder.adapters.ansible.playbook import Listener, RoleResult
from builder.adapters.engine.client import Engine
from builder.adapters.host.workspace import Workspace, open_run
from builder.app.context import Context
from builder.app.role import require_unchanged
from builder.app.role_machine import RoleMachine
from builder.app.role_plan import RoleRequest, role_plan
from builder.app.scenario import platform_of, request_of, scenarios
from builder.cli import role
from builder.errors import CheckError, UsageError
from builder.events import Stream
from tests.facts.comparison import ROOT
from tests.support.repository import Repository


def request(*components: str, **fields: object) -> RoleRequest:
    return RoleRequest(components=components, kind="container", stack="plain-1", **fields)  # type: ignore[arg-type]


def test_role_plan_includes_required_components(repository: Repository) -> None:
    plan = role_plan(Context(repository.root), request("fabric"))
    assert plan.components == ("base", "fabric")
    assert plan.versions == {"fabric": "1.2-3"}
    assert plan.system.bootstrap is not None


def test_role_layers_equal_those_of_a_target_with_the_same_components(repository: Repository) -> None:
    """`builder role` tests the same layers that a build makes."""
    tried = {layer.name: layer.key for layer in role_plan(Context(repository.root), request("fabric")).layers}
    assert tried.items() <= repository.keys().items()


def test_a_pin_and_a_variable_override_the_catalog(repository: Repository) -> None:
    before = repository.keys()
    wanted = request("fabric", pins={"fabric": "9-1"}, variables={"base_user": "ada"})
    plan = role_plan(Context(repository.root), wanted)
    assert plan.versions == {"fabric": "9-1"}
    assert plan.layers[1].variables["base_user"] == "ada"
    assert repository.keys() == before


class RecordingEngine(Engine):
    """Engine that records the options of new containers and starts none."""

    def __init__(self) -> None:
        super().__init__()
        self.created: list[dict[str, Any]] = []

    def create(self, image: str, **options: Any) -> str:
        self.created.append(options)
        return f"{image}-{len(self.created)}"

    def info(self) -> dict[str, Any]:
        return {}

    def inspect_container(self, container: str) -> dict[str, Any]:
        return {"Image": "parent"}

    def inspect_image(self, reference: str) -> dict[str, Any]:
        return {"Config": {}}

    def commit(self, container: str, **_: Any) -> str:
        return "copy"

    def start(self, container: str) -> None: ...

    def remove_container(self, container: str) -> None: ...

    def remove_image(self, image: str) -> None: ...


def test_role_container_has_the_environment_variables_of_the_image(tmp_path: Path) -> None:
    """Checks of GPU images read the variables that a build writes to the configuration of the image."""
    wanted = RoleRequest(
        components=["cuda"], kind="container", system="debian-13", stack="cuda-12.4-debian-13"
    )
    plan, engine = role_plan(Context(ROOT), wanted), RecordingEngine()
    with open_run(Workspace(home=tmp_path / "home", out=tmp_path / "out"), "role") as run:
        machine = RoleMachine(run=run, root=ROOT, events=Stream(), engine=engine, container="c")
        with machine.restarted(plan):
            pass
    assert engine.created[-1]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "all"


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (request("fabrik"), "no component 'fabrik' (did you mean 'fabric'?)"),
        (request("fabric", system="tiny-2"), "no system 'tiny-2' (did you mean 'tiny-1'?)"),
        (RoleRequest(components=["fabric"], stack="plain"), "no stack 'plain' (did you mean 'plain-1'?)"),
    ],
)
def test_role_command_suggests_a_name_for_an_unknown_name(
    repository: Repository, wanted: RoleRequest, words: str
) -> None:
    with pytest.raises(UsageError) as refused:
        role_plan(Context(repository.root), wanted)
    assert refused.value.message == words


def test_role_command_suggests_the_pin_option_if_the_stack_has_no_pin(repository: Repository) -> None:
    repository.write("catalog/stacks/bare-1.toml", 'summary = "nothing"\n[pins]\n')
    with pytest.raises(UsageError, match="stack 'bare-1' has no pin for component 'fabric'") as refused:
        role_plan(Context(repository.root), RoleRequest(components=["fabric"], stack="bare-1"))
    assert "--pin fabric=VERSION" in refused.value.hint


def test_option_twice_fails_if_the_second_run_of_a_role_changes_anything() -> None:
    listener = Listener(Stream(), "roles")
    require_unchanged(Applied(code=0, seconds=1.0, listener=listener))
    listener.roles["base"] = RoleResult(tasks=2, changed=["base : Write files"])
    with pytest.raises(CheckError, match="not idempotent: the second run changed base : Write files"):
        require_unchanged(Applied(code=0, seconds=1.0, listener=listener))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "no component given"),
        (["base", "--set", "base_user"], "--set base_user: must be NAME=VALUE"),
        (["base", "--pin", "=1"], "--pin =1: must be NAME=VALUE"),
        (["--start", "/nowhere"], "no platform given"),
        (["base", "--kind", "vm"], "invalid choice"),
    ],
)
def test_refuses_wrong_arguments(repository: Repository, argv: list[str], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        role.run(["--root", str(repository.root), *argv])
    assert words in refused.value.message


def test_reads_the_only_platform_of_a_molecule_scenario(tmp_path: Path) -> None:
    file = tmp_path / "ansible" / "molecule" / "host" / "molecule.yml"
    file.parent.mkdir(parents=True)
    file.write_text("platforms:\n  - {name: a, components: [base], pins: {kernel: '6'}}\n")
    assert scenarios(tmp_path).keys() == {"host"}
    assert request_of(platform_of(file)) == RoleRequest(components=["base"], pins={"kernel": "6"})
    file.write_text("platforms: []\n")
    with pytest.raises(UsageError, match="must name exactly one platform"):
        platform_of(file)
