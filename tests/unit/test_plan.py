"""Plans: inputs of layer keys, canonical order of components, golden files."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import catalog, lock, plan, sources
from builder.app.context import Context
from builder.errors import CatalogError, UsageError
from builder.members import closure, members_of
from builder.model import Catalog, Component
from builder.plan import explain
from builder.screen.golden import golden, golden_names, write_golden
from builder.stack.loading import load
from tests.support.repository import Repository

# All layers of the target in the test repository.
EVERYTHING = {"base", "system", "final", "workload"}


def test_nccl_package_is_built_for_the_cuda_version_of_its_stack(root: Path) -> None:
    """Otherwise apt would install the newest NCCL build, which may need a newer CUDA than the driver's."""
    context = Context(root, site_name="aws", arch="x86_64")
    found = {
        (target.name, flavour.stack): plan.variables_of(context.plan_flavour(target, flavour))["nccl_cuda"]
        for target in context.catalog.targets.values()
        for flavour in target.flavours.values()
        if "nccl" in members_of(context.catalog, target, flavour)
    }
    assert ("ami-gpu", "cuda-12.8.1") in found
    for (_, stack), cuda in found.items():
        assert cuda == context.catalog.stacks[stack].pins.get("cuda", "")


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("catalog/systems/tiny-1.toml", '["python3"]', '["python3", "perl"]', EVERYTHING),
        ("catalog/stacks/plain-1.toml", "1.2-3", "1.2-4", EVERYTHING - {"base"}),
        ("ansible/roles/base/templates/profile.j2", "user", "User", EVERYTHING - {"base"}),
        ("ansible/roles/base/tasks/main.yml", "[]", "[]\n# why", EVERYTHING - {"base"}),
        ("ansible/image.yml", "[]", "[ ]", EVERYTHING - {"base"}),
        ("ansible/requirements.lock", "", "ansible-core", EVERYTHING - {"base"}),
        ("ansible/roles/workload_env/tasks/main.yml", "[]", "[ ]", {"final", "workload"}),
        ("containers/hello/requirements.lock", "greet==1.0", "greet==1.1", {"final", "workload"}),
        ("containers/hello/Dockerfile", "COPY", "ENV A=1\nCOPY", {"workload"}),
        ("containers/hello/src/hello.py", "hello", "Hello", {"workload"}),
        ("containers/hello/README.md", "not", "never", set()),
        ("ansible/roles/base/tests/test_base.py", "host", "host, expected", set()),
        ("catalog/targets/hello.toml", "says hello", "greets", {"workload"}),  # a label
        ("catalog/stacks/plain-1.toml", "a stack", "one stack", set()),
    ],
)
def test_layer_key_changes_if_and_only_if_an_input_changes(
    repository: Repository, file: str, old: str, new: str, changed: set[str]
) -> None:
    before = repository.keys()
    repository.replace(file, old, new)
    after = repository.keys()
    assert {name for name in before if before[name] != after[name]} == changed


def test_layer_keys_depend_on_executable_bits_but_not_on_times_or_other_modes(repository: Repository) -> None:
    before = repository.keys()
    template = repository.root / "ansible/roles/base/templates/profile.j2"
    os.utime(template, (1, 1))
    template.chmod(0o640)
    assert repository.keys() == before
    template.chmod(0o750)
    assert repository.keys()["system"] != before["system"]


def test_variable_is_passed_only_to_the_layer_of_its_role(repository: Repository) -> None:
    before = repository.keys()
    repository.write(
        "catalog/targets/hello.toml",
        (repository.root / "catalog/targets/hello.toml").read_text() + '[variables]\nbase_user = "someone"\n',
    )
    layers = {layer.name: layer for layer in repository.plan().layers}
    assert layers["system"].variables["base_user"] == "someone"
    assert layers["final"].variables.keys() == {"workload_env_requirements"}
    assert layers["system"].key != before["system"]


def test_role_variable_belongs_to_the_component_with_the_longest_matching_prefix() -> None:
    assert plan.owner("python_env_path", ["python", "python_env", "base"]) == "python_env"
    assert plan.owner("elsewhere", ["python"]) == ""


def test_plan_versions_come_from_pins_and_requirements(repository: Repository) -> None:
    assert repository.plan().versions == {"fabric": "1.2-3", "greet": "1.0"}


def test_source_packages_are_role_variables_and_part_of_the_plan_versions(repository: Repository) -> None:
    before = repository.keys()["system"]
    line = f"Zero_Redundancy==2.0 --hash=sha256:{'0' * 64}"
    repository.replace(
        "catalog/components/base.toml", 'layer = "system"', f'layer = "system"\nsource_packages = ["{line}"]'
    )
    found = repository.plan()
    assert found.versions["zero-redundancy"] == "2.0"
    (system,) = [layer for layer in found.layers if layer.name == "system"]
    assert system.variables["base_source_packages"] == [line]
    assert repository.keys()["system"] != before


def test_unsupported_architecture_is_refused(repository: Repository) -> None:
    loaded = repository.load()
    target = loaded.targets["hello"]
    read = sources.read(repository.root, loaded, target, target.default)
    with pytest.raises(UsageError, match="does not support arm64"):
        plan.plan(load(repository.root, loaded), target, target.default, read, lock.Lock(), arch="arm64")


def test_unknown_target_is_refused_with_a_suggestion(repository: Repository) -> None:
    with pytest.raises(UsageError, match="did you mean 'hello'"):
        repository.plan("helo")


@pytest.mark.parametrize("copied", ["../secret", "missing/", "."])
def test_dockerfile_may_copy_only_files_of_the_build_context(repository: Repository, copied: str) -> None:
    repository.replace("containers/hello/Dockerfile", "hello/src/", copied)
    with pytest.raises(CatalogError):
        repository.plan()


def test_all_forms_of_dockerfile_copy_are_parsed(repository: Repository) -> None:
    repository.write(
        "containers/hello/Dockerfile",
        """
        ARG PARENT
        FROM ${PARENT} AS other
        FROM $PARENT
        # COPY hello/README.md /
        COPY --chown=1:1 hello/src/hello.py \\
             hello/requirements.lock /a/
        copy ["hello/README.md", "/b/"]
        COPY --from=other /x /y
        """,
    )
    files = [str(path) for path in repository.plan().workload_files]
    assert files == ["hello/README.md", "hello/requirements.lock", "hello/src/hello.py"]


def test_rebuild_reason_names_the_changed_input(repository: Repository) -> None:
    before = {layer["name"]: layer for layer in plan.to_json(repository.plan())["layers"]}
    repository.replace("ansible/roles/base/templates/profile.j2", "user", "User")
    reasons = {layer.name: explain(layer, before) for layer in repository.plan().layers}
    assert reasons["system"] == "changed: role base"
    assert reasons["final"] == "a layer below it changed"
    assert reasons["base"] == "no longer in the engine or the cache"
    assert explain(repository.plan().layers[0], {}) == "not built here before"


def test_rebuild_reason_names_the_changed_stack_of_the_workload(repository: Repository) -> None:
    before = {layer["name"]: layer for layer in plan.to_json(repository.plan())["layers"]}
    repository.write("catalog/stacks/plain-2.toml", 'summary = "a copy"\nbase = "plain-1"\n')
    repository.replace("catalog/targets/hello.toml", "plain-1", "plain-2")
    (workload,) = (layer for layer in repository.plan().layers if layer.kind == "workload")
    assert explain(workload, before) == "changed: stack or summary of the target"


names = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    layers = ("low", "high")
    components: dict[str, Component] = {}
    for name in draw(names):
        layer = draw(st.sampled_from(layers))
        allowed = [n for n, c in components.items() if layers.index(c.layer) <= layers.index(layer)]
        requires = draw(st.lists(st.sampled_from(allowed), unique=True)) if allowed else []
        components[name] = Component(name=name, summary="", layer=layer, requires=tuple(requires))
    return Catalog(components=components, stacks={}, systems={}, targets={}, instances={}, layers=layers)


@given(made=catalogs(), data=st.data())
def test_component_order_is_canonical_with_requirements_first(made: Catalog, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(made.components)), unique=True, min_size=1))
    ordered = closure(made, chosen)
    assert ordered == closure(made, list(reversed(chosen)))
    everything = closure(made, made.components)
    assert [name for name in everything if name in ordered] == list(ordered)
    for i, name in enumerate(ordered):
        assert set(made.components[name].requires) <= set(ordered[:i])
    ranks = [made.layers.index(made.components[name].layer) for name in ordered]
    assert ranks == sorted(ranks)


@pytest.mark.parametrize(
    ("kind", "pin", "expected"),
    [
        ("ami", "6.1.0-50-amd64", {"target_kernel": "6.1.0-50-amd64"}),
        ("ami", "6.8", {"kernel_series": "6.8"}),
        ("container", "6.8", {"target_kernel": ""}),
    ],
)
def test_kernel_pin_may_be_a_release_or_a_series(
    repository: Repository, kind: str, pin: str, expected: dict[str, str]
) -> None:
    loaded = repository.load()
    system, stack = next(iter(loaded.systems.values())), next(iter(loaded.stacks.values()))
    stack = dataclasses.replace(stack, pins={"kernel": pin})
    capabilities = plan.capabilities(system, stack, kind=kind, arch="x86_64")
    assert {name: value for name, value in capabilities.items() if "kernel" in name} == expected


def test_ami_for_a_system_of_one_architecture_is_planned_for_it_on_every_machine(root: Path) -> None:
    for arch in ("x86_64", "arm64"):
        planned = Context(root, site_name="aws", arch=arch, flavour="amazon-2023-arm64").plan("ami-gpu")
        assert planned.arch == "arm64"
        assert "nvidia_imex" in planned.components
        assert planned.target.ami
        assert planned.target.ami.build_on[planned.arch].startswith("m7g.")


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", sorted(path.name.removesuffix(".json") for path in GOLDEN.glob("*.json")))
def test_plan_matches_its_golden_file(root: Path, name: str) -> None:
    """To update the golden files, run `builder plan --write-golden tests/golden` and review the diff."""
    target, flavour = golden_names(catalog.load(root))[name]
    plan = Context(root, arch="x86_64", flavour=flavour).plan(target)
    assert golden(plan) == json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def test_every_target_has_a_golden_file(root: Path) -> None:
    assert {path.name for path in GOLDEN.glob("*.json")} == {
        f"{name}.json" for name in golden_names(catalog.load(root))
    }


def test_write_golden_writes_the_table_that_the_golden_test_compares(
    repository: Repository, tmp_path: Path
) -> None:
    plan = repository.plan()
    path = write_golden(plan, tmp_path, "hello@other")
    assert path == tmp_path / "hello@other.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    assert table == golden(plan)
    assert plan.key not in path.read_text(encoding="utf-8")
    repository.replace("ansible/roles/base/templates/profile.j2", "user", "User")
    assert golden(repository.plan()) == table
    repository.replace("catalog/stacks/plain-1.toml", "1.2-3", "1.2-4")
    assert golden(repository.plan()) != table
