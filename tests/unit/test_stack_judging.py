"""Compatibility rules by severity: error refuses the build, setting reaches the job, warning is reported."""

from pathlib import Path

import pytest

from builder import lock, plan, sources
from builder.adapters.container.finder import EngineFinder
from builder.app.context import Context
from builder.cli import build
from builder.cli.main import main
from builder.errors import IncompatibleError
from builder.pipeline import require_allowed
from builder.stack.judging import facts_of
from tests.support.output import result_of
from tests.support.repository import Repository, knowledge_of

RULES = """
subject = "Fabrics"
date = "2026-11-21"

[[rule]]
id = "FAB-01"
severity = "{severity}"
side = "image"
when = ["fabric >= 1.0", "{clause}"]
why = "It does not hold."
{more}
source = ["book"]
fires = [{{ fabric = "1.0", {fires} }}]
holds = [{{ fabric = "0.9", {fires} }}]
"""


@pytest.fixture
def ruled(repository: Repository) -> Repository:
    repository.write("catalog/sources.toml", 'book = "A book"\n')
    repository.write("catalog/versions/fabric.toml", 'summary = "The fabric"\nside = "image"\n')
    facts = {
        "kind": "image",
        "arch": "machine",
        "os": "image",
        "instance": "machine",
        "accel": "machine",
        "gdr": "machine",
    }
    repository.write(
        "catalog/facts.toml",
        "".join(
            f'[{name}]\nwhat = "{name}"\nkind = "{"flag" if name == "gdr" else "word"}"\nside = "{side}"\n'
            for name, side in facts.items()
        ),
    )
    return repository


def rule(
    repository: Repository,
    clause: str,
    fires: str,
    *,
    severity: str = "error",
    more: str = 'fix = "Take another."',
) -> None:
    text = RULES.format(severity=severity, clause=clause, fires=fires, more=more)
    repository.write("catalog/rules/fabric.toml", text)


@pytest.mark.parametrize(
    ("clause", "fires"),
    [
        ("kind == container", 'kind = "container"'),
        ("os == debian1", 'os = "debian1"'),
        ("arch == x86_64", 'arch = "x86_64"'),
    ],
)
def test_a_violated_error_rule_refuses_the_build_with_the_reason(
    ruled: Repository, clause: str, fires: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rule(ruled, clause, fires)
    planned = ruled.plan()
    assert [error.partition(" (")[0] for error in planned.errors] == ["*: FAB-01: It does not hold."]
    with pytest.raises(IncompatibleError) as caught:
        require_allowed([planned])
    assert "target 'hello': stack 'plain-1' on *: FAB-01: It does not hold. (fabric 1.2-3" in str(
        caught.value
    )
    assert caught.value.exit_code == 8
    assert caught.value.hint == (
        "builder stack check plain-1 --set kind=container --set arch=x86_64 --set os=debian1"
    )
    assert main([*caught.value.hint.split()[1:], "--root", str(ruled.root)]) == 8
    assert "FAB-01" in capsys.readouterr().out


def test_a_rule_that_does_not_apply_allows_the_build(ruled: Repository) -> None:
    rule(ruled, "kind == ami", 'kind = "ami"')
    planned = ruled.plan()
    assert (planned.settings, planned.warnings, planned.errors) == ({}, (), ())
    require_allowed([planned])


def test_a_rule_of_severity_setting_adds_its_setting_to_the_plan(ruled: Repository) -> None:
    carried = 'environment = { FABRIC_MODE = "soft" }'
    rule(ruled, "kind == container", 'kind = "container"', severity="setting", more=carried)
    assert ruled.plan().settings == {"*": ("FABRIC_MODE=soft",)}


def test_the_plan_contains_the_warnings_of_rules(ruled: Repository) -> None:
    rule(ruled, "kind == container", 'kind = "container"', severity="warning")
    assert ruled.plan().warnings == (
        "FAB-01: It does not hold. Take another. (fabric 1.2-3, kind container)",
    )


def test_a_warning_about_a_component_that_the_image_lacks_is_left_out(ruled: Repository) -> None:
    """The stack pins a driver, which the container does not contain."""
    ruled.write("catalog/versions/driver.toml", 'summary = "The driver"\nside = "image"\n')
    ruled.write("catalog/components/driver.toml", 'summary = "driver"\nlayer = "system"\npinned = true\n')
    ruled.write("ansible/roles/driver/tasks/main.yml", "[]\n")
    ruled.replace("catalog/stacks/plain-1.toml", 'fabric = "1.2-3"', 'fabric = "1.2-3"\ndriver = "535"')
    rule(ruled, "kind == container", 'kind = "container"', severity="warning")
    fabric = (ruled.root / "catalog/rules/fabric.toml").read_text()
    driver = fabric.replace("fabric", "driver").replace("FAB-01", "DRV-01")
    ruled.write("catalog/rules/driver.toml", driver)
    both = fabric.replace("FAB-01", "BOTH-01").replace("kind == container", "driver >= 1.0")
    ruled.write("catalog/rules/both.toml", both.replace('kind = "container"', 'driver = "1.0"'))

    def warned() -> list[str]:
        return [text.partition(":")[0] for text in ruled.plan().warnings]

    assert warned() == ["BOTH-01", "FAB-01"]
    ruled.replace("catalog/targets/hello.toml", '["fabric", ', '["driver", "fabric", ')
    assert warned() == ["BOTH-01", "DRV-01", "FAB-01"]


def test_a_rule_that_fires_does_not_change_layer_keys(ruled: Repository) -> None:
    before = ruled.keys()
    rule(ruled, "kind == container", 'kind = "container"')
    assert ruled.plan().errors
    assert ruled.keys() == before


def test_every_target_obeys_the_rules_in_all_flavours_architectures_and_sites(root: Path) -> None:
    knowledge, locked = knowledge_of(root), lock.read(root)
    for target, flavour, arch, site in lock.variants(knowledge.catalog):
        read = sources.read(root, knowledge.catalog, target, flavour)
        planned = plan.plan(knowledge, target, flavour, read, locked, arch=arch, site=site)
        assert planned.errors == (), f"{target.name} {flavour.name} {arch} {site}"


# Rules in the output of the commands plan, show and build


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the engine's list of images with an empty list."""
    monkeypatch.setattr(EngineFinder, "images", {})


def call(capsys: pytest.CaptureFixture[str], repository: Repository, *words: str) -> tuple[int, str, str]:
    code = main([*words, "--root", str(repository.root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.usefixtures("engine")
def test_a_refused_plan_is_printed_with_the_reason(
    ruled: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    rule(ruled, "kind == container", 'kind = "container"')
    code, out, err = call(capsys, ruled, "plan", "--target", "hello")
    assert code == 8
    assert ruled.plan().key[:12] in out
    assert "FAB-01: It does not hold." in err
    code, out, err = call(capsys, ruled, "plan", "--target", "hello", "--json")
    assert (code, result_of(out)[0]["plan"]["errors"]) == (8, list(ruled.plan().errors))
    assert "FAB-01: It does not hold." in err


@pytest.mark.usefixtures("engine")
def test_plan_and_show_print_settings_and_warnings(
    ruled: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    carried = 'environment = { FABRIC_MODE = "soft" }'
    rule(ruled, "kind == container", 'kind = "container"', severity="setting", more=carried)
    for words in (["plan", "--target", "hello"], ["show", "hello"]):
        code, out, _ = call(capsys, ruled, *words)
        assert (code, "FABRIC_MODE=soft" in out) == (0, True)
    rule(ruled, "kind == container", 'kind = "container"', severity="warning")
    for words in (["plan", "--target", "hello"], ["show", "hello"]):
        code, out, _ = call(capsys, ruled, *words)
        assert (code, "FAB-01" in out) == (0, True)


def test_show_prints_why_a_target_is_refused(ruled: Repository, capsys: pytest.CaptureFixture[str]) -> None:
    rule(ruled, "kind == container", 'kind = "container"')
    code, out, _ = call(capsys, ruled, "show", "hello")
    assert (code, "FAB-01: It does not hold." in out) == (0, True)


def test_a_build_is_refused_before_it_looks_for_existing_layers(
    ruled: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target whose layers all exist is refused too."""

    def begun(*_: object, **__: object) -> None:
        raise AssertionError("the build has begun")

    monkeypatch.setattr(build, "build", begun)
    rule(ruled, "kind == container", 'kind = "container"')
    code, out, err = call(capsys, ruled, "build", "--target", "hello")
    assert (code, out) == (8, "")
    assert "FAB-01: It does not hold." in err


def test_image_variables_of_rules_change_the_first_component_layer(ruled: Repository) -> None:
    before = ruled.keys()
    carried = 'image = { FABRIC_MODE = "soft" }'
    rule(ruled, "kind == container", 'kind = "container"', severity="setting", more=carried)
    planned = ruled.plan()
    assert [dict(layer.environment) for layer in planned.layers] == [{}, {"FABRIC_MODE": "soft"}, {}, {}]
    assert planned.settings == {}, "a job inherits them from the image"
    assert {name for name, key in ruled.keys().items() if key != before[name]} == before.keys() - {"base"}


def test_the_operating_system_of_every_system_is_a_fact_that_rules_can_name(root: Path) -> None:
    known = knowledge_of(root).vocabulary.facts["os"].one_of
    systems = Context(root).catalog.systems.values()
    assert {facts_of(system, kind="ami", arch="x86_64")["os"] for system in systems} <= set(known)
