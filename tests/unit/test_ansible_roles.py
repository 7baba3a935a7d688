"""Tests that roles read only their own variables and the declared capabilities.

This makes layer keys complete: the key covers every input that can change what a role does.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, meta, nodes

ANSIBLE = Path(__file__).resolve().parents[2] / "ansible"
ROLES = sorted(path for path in (ANSIBLE / "roles").iterdir() if path.is_dir())
FAMILIES = ("debian", "redhat")

CAPABILITIES = frozenset(
    {
        "arch",
        "can_load_modules",
        "has_systemd",
        "is_container",
        "system_distribution",
        "system_family",
        "system_release",
        "target_kernel",
    }
)
# Variables that Ansible derives from the position in the playbook, not from the machine or the caller.
MAGIC = frozenset({"item", "omit", "role_path"})
# Variables that the play sets (work folder, mirrors, module cache, site settings). They do not affect the
# content of images.
PLAY_VARIABLES = frozenset(
    {
        "factory_ca_bundle",
        "factory_environment",
        "factory_made_modules",
        "factory_mirrors",
        "factory_module_cache",
        "work_folder",
    }
)
FUNCTIONS = frozenset({"lookup", "query"})
# Maps each shared Ansible file outside the roles to the name prefix of its parameters.
SHARED = {
    "expected.yml": "image_",
    "image.yml": "image_",
    "tasks/checkout.yml": "checkout_",
    "tasks/component.yml": "image_",
    "tasks/kernel_of_base.yml": "kernel_",
    "tasks/areas.yml": "areas_",
    "tasks/download.yml": "download_",
    "tasks/install_debian.yml": "install_",
    "tasks/install_files_debian.yml": "install_",
    "tasks/install_files_redhat.yml": "install_",
    "tasks/vendor_installer.yml": "installer_",
    "tasks/install_redhat.yml": "install_",
    "tasks/kernel_module.yml": "module_",
    "tasks/lock_redhat.yml": "install_",
    "tasks/nvidia_driver_version.yml": "driver_",
    "tasks/remove_debian.yml": "remove_",
    "tasks/remove_redhat.yml": "remove_",
    "tasks/repository_debian.yml": "repository_",
    "tasks/repository_redhat.yml": "repository_",
    "tasks/unlock_redhat.yml": "install_",
    "tasks/variables.yml": "image_",
}
# Facts set by shared files. They depend only on the image and on the file's parameters.
SHARED_FACTS = frozenset({"driver_version"})
SHARED_PREFIXES = tuple(sorted({prefix for prefix in SHARED.values() if prefix != "image_"}))
# Task keys whose value is a Jinja expression without braces.
EXPRESSIONS = frozenset({"when", "until", "changed_when", "failed_when", "that"})
# Ansible actions with inputs that no layer key covers.
REFUSED_ACTIONS = frozenset(
    {"gather_facts", "include_vars", "package_facts", "service_facts", "set_fact", "setup"}
)
VERSION = re.compile(r"\d+\.\d+")


class AnyName(dict[str, Any]):
    """Registry of filters or tests that contains every name, because Ansible adds many to Jinja's own."""

    def get(self, key: str, default: object = None) -> Any:
        return super().get(key, len)


ENVIRONMENT = Environment(autoescape=False)
ENVIRONMENT.filters = AnyName(ENVIRONMENT.filters)
ENVIRONMENT.tests = AnyName(ENVIRONMENT.tests)


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None


def list_documents(role: Path, *folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((role / folder).rglob("*.yml"))]


def read_keys(path: Path) -> set[str]:
    return set(read_yaml(path) or ())


def find_templates(value: Any, key: str = "") -> Iterator[str]:
    """Yield all Jinja templates in a YAML document, with bare expressions wrapped in braces."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from find_templates(name)
            yield from find_templates(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from find_templates(part, key)
    elif isinstance(value, str):
        yield f"{{{{ {value} }}}}" if key in EXPRESSIONS else value


def find_names(template: str) -> set[str]:
    return meta.find_undeclared_variables(ENVIRONMENT.parse(template))


def find_lookups(template: str) -> set[str]:
    calls = ENVIRONMENT.parse(template).find_all(nodes.Call)
    lookups = [call for call in calls if isinstance(call.node, nodes.Name) and call.node.name == "lookup"]
    return {getattr(call.args[0], "value", "an expression") for call in lookups}


def find_mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from find_mappings(part)


def find_definitions(document: Any) -> Iterator[str]:
    """Yield the variable names that tasks define: registered results, loop variables and task variables."""
    for mapping in find_mappings(document):
        if isinstance(mapping.get("register"), str):
            yield mapping["register"]
        if isinstance(mapping.get("loop_var"), str):
            yield mapping["loop_var"]
        if isinstance(mapping.get("vars"), dict):
            yield from mapping["vars"]


def read_sources(role: Path) -> dict[Path, list[str]]:
    """Return the Jinja templates in each file of a role."""
    documents = [
        path
        for folder in ("tasks", "handlers", "defaults", "vars")
        for path in (role / folder).rglob("*.yml")
    ]
    sources = {path: list(find_templates(read_yaml(path))) for path in documents}
    templates = [path for path in (role / "templates").rglob("*") if path.is_file()]
    return sources | {path: [path.read_text(encoding="utf-8")] for path in templates}


def check_reads(role: Path, prefix: str) -> list[str]:
    problems = []
    for path, templates in read_sources(role).items():
        for template in templates:
            names = find_names(template) - CAPABILITIES - MAGIC - FUNCTIONS - SHARED_FACTS - {"work_folder"}
            foreign = sorted(name for name in names if not name.startswith(prefix))
            problems += [f"{path.name}: reads {name}" for name in foreign]
            problems += [f"{path.name}: looks up {name}" for name in sorted(find_lookups(template))]
    return problems


def check_definitions(role: Path, prefix: str) -> list[str]:
    tasks = list_documents(role, "tasks", "handlers")
    found = [(path, name) for path in tasks for name in find_definitions(read_yaml(path))]
    foreign = [(path, name) for path, name in found if not name.startswith((prefix, *SHARED_PREFIXES))]
    for path in list_documents(role, "defaults", "vars"):
        foreign += [(path, name) for name in sorted(read_keys(path)) if not name.startswith(prefix)]
    return [f"{path.name}: defines {name}" for path, name in foreign]


def check_actions(role: Path) -> list[str]:
    problems = []
    for path in list_documents(role, "tasks", "handlers"):
        used = {key.rpartition(".")[2] for mapping in find_mappings(read_yaml(path)) for key in mapping}
        problems += [f"{path.name}: uses {action}" for action in sorted(used & REFUSED_ACTIONS)]
    return problems


def read_required(role: Path) -> set[str]:
    options = read_options(role)
    return {name for name, option in options.items() if option.get("required")}


def read_options(role: Path) -> dict[str, Any]:
    specification = read_yaml(role / "meta" / "argument_specs.yml")
    options: dict[str, Any] = specification["argument_specs"]["main"]["options"]
    return options


def find_known(role: Path) -> set[str]:
    """Return the role's variables that have a value on every OS family or that the caller must set."""
    known = set.intersection(*(read_keys(role / "vars" / f"{family}.yml") for family in FAMILIES))
    known |= read_keys(role / "defaults" / "main.yml") | read_keys(role / "vars" / "main.yml")
    for path in list_documents(role, "tasks", "handlers"):
        known |= set(find_definitions(read_yaml(path)))
    return known | read_required(role)


def check_values(role: Path, prefix: str) -> list[str]:
    templates = [template for group in read_sources(role).values() for template in group]
    read = {name for template in templates for name in find_names(template) if name.startswith(prefix)}
    return [f"no value for {name}" for name in sorted(read - find_known(role))]


def check_literals(role: Path) -> list[str]:
    files = [
        path for path in role.rglob("*") if path.is_file() and "tests" not in path.parts[len(role.parts) :]
    ]
    return [
        f"{path.name}: names version {found.group()}"
        for path in files
        for found in VERSION.finditer(path.read_text(encoding="utf-8"))
    ]


def check_role(role: Path) -> list[str]:
    prefix = f"{role.name}_"
    return [
        *check_reads(role, prefix),
        *check_definitions(role, prefix),
        *check_actions(role),
        *check_values(role, prefix),
        *check_literals(role),
    ]


def name_of(role: Path) -> str:
    return role.name


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_role_reads_only_inputs_that_its_layer_key_covers(role: Path) -> None:
    assert check_role(role) == []


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_role_has_a_check_file(role: Path) -> None:
    assert [path.name for path in (role / "tests").glob("*.py")] == [f"test_{role.name}.py"]


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_argument_specs_describe_all_settable_variables(role: Path) -> None:
    settable = read_keys(role / "defaults" / "main.yml") | read_required(role)
    assert set(read_options(role)) == settable


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_variable_files_of_all_os_families_define_the_same_names(role: Path) -> None:
    names = {
        path.name: set(read_yaml(path)) for path in (role / "vars").glob("*.yml") if path.name != "main.yml"
    }
    if names:
        assert {f"{family}.yml" for family in FAMILIES} <= set(names)
        assert len({frozenset(keys) for keys in names.values()}) == 1


@pytest.mark.parametrize("role", ROLES, ids=name_of)
def test_task_names_are_unique(role: Path) -> None:
    names = [task["name"] for task in read_yaml(role / "tasks" / "main.yml")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("file", "prefix"), SHARED.items())
def test_shared_file_reads_only_its_parameters(file: str, prefix: str) -> None:
    names = {name for piece in find_templates(read_yaml(ANSIBLE / file)) for name in find_names(piece)}
    known = CAPABILITIES | MAGIC | PLAY_VARIABLES | FUNCTIONS
    assert {name for name in names - known if not name.startswith(prefix)} == set()


def test_all_shared_ansible_files_are_listed() -> None:
    found = [*ANSIBLE.glob("*.yml"), *(ANSIBLE / "tasks").glob("*.yml")]
    assert {str(path.relative_to(ANSIBLE)) for path in found} == set(SHARED)


def test_workload_env_installs_into_the_venv_of_python_env() -> None:
    stack, workload = (
        read_yaml(ANSIBLE / "roles" / name / "defaults" / "main.yml")[f"{name}_path"]
        for name in ("python_env", "workload_env")
    )
    assert stack == workload


def make_role(folder: Path, **files: str) -> Path:
    role = folder / "probe"
    contents = {
        "tasks/main.yml": "[]",
        "defaults/main.yml": "probe_size: 1",
        "meta/argument_specs.yml": "argument_specs: {main: {options: {}}}",
    } | files
    for name, content in contents.items():
        path = role / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return role


def test_a_valid_role_passes(tmp_path: Path) -> None:
    tasks = (
        "[{tree: {entries: ['{{ probe_size | to_nice_yaml }}']}, when: is_container, register: probe_made}]"
    )
    assert check_role(make_role(tmp_path, **{"tasks/main.yml": tasks})) == []


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("templates/a.j2", "{% if other_size %}x{% endif %}", "a.j2: reads other_size"),
        ("tasks/main.yml", "[{command: x, when: other_made is changed}]", "main.yml: reads other_made"),
        ("tasks/main.yml", "[{command: x, when: [is_container, not other]}]", "main.yml: reads other"),
        ("tasks/main.yml", "[{debug: {msg: x}, loop: '{{ others }}'}]", "main.yml: reads others"),
        ("tasks/main.yml", "[{debug: {msg: '{{ ansible_kernel }}'}}]", "main.yml: reads ansible_kernel"),
        ("tasks/main.yml", "[{debug: {msg: '{{ hostvars }}'}}]", "main.yml: reads hostvars"),
        ("tasks/main.yml", "[{block: [{debug: {msg: '{{ deep }}'}}]}]", "main.yml: reads deep"),
        ("tasks/main.yml", """[{x: "{{ lookup('env', 'HOME') }}"}]""", "main.yml: looks up env"),
        ("tasks/main.yml", "[{command: x, register: made}]", "main.yml: defines made"),
        ("tasks/main.yml", "[{x: y, loop_control: {loop_var: size}}]", "main.yml: defines size"),
        ("tasks/main.yml", "[{ansible.builtin.setup: {}}]", "main.yml: uses setup"),
        ("tasks/main.yml", "[{debug: {msg: '{{ probe_shape }}'}}]", "no value for probe_shape"),
        ("defaults/main.yml", "probe_size: '{{ other_size }}'", "main.yml: reads other_size"),
        ("defaults/main.yml", "size: 1", "main.yml: defines size"),
        ("defaults/main.yml", "probe_release: '1.17.0'", "main.yml: names version 1.17"),
        ("vars/debian.yml", "probe_name: '{{ base_user }}'", "debian.yml: reads base_user"),
    ],
)
def test_role_check_finds_each_kind_of_forbidden_content(
    tmp_path: Path, file: str, content: str, problem: str
) -> None:
    assert problem in check_role(make_role(tmp_path, **{file: content}))
