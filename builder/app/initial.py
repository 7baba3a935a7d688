"""Write the files of a new target, component or stack, so that they pass the unit tests as they are.

Refuses to overwrite a file. If the catalog is invalid afterwards, everything written is undone.
"""

import json
import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder import catalog
from builder.adapters.host.workspace import write_atomically
from builder.app.context import Context
from builder.app.role_plan import default_system
from builder.errors import CatalogError, UsageError
from builder.model import Catalog, Stack, Target
from builder.patterns import name_problem
from builder.requirements import heading
from builder.tables import Problems, Table, did_you_mean, read_toml

_UNUSED = Path("catalog", "unused.toml")
_SCENARIO = Path("ansible", "molecule", "default", "molecule.yml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """Contents of new files and of changed files, by path relative to the repository."""

    new: Mapping[Path, str]
    changed: Mapping[Path, str] = field(default_factory=dict)


def write(context: Context, files: Files) -> list[Path]:
    """Write the files and return the paths of new files; undo everything if the catalog is invalid."""
    existing = [str(path) for path in files.new if os.path.lexists(context.root / path)]
    if existing:
        raise UsageError(
            f"{existing[0]} exists already; nothing was written",
            details="\n".join(existing[1:]),
            hint="choose another name",
        )
    before = {path: (context.root / path).read_text(encoding="utf-8") for path in files.changed}
    before_broken = context.catalog.broken.keys()
    folders = [folder for path in files.new for folder in _missing_folders(context.root / path)]
    try:
        for path, text in files.new.items():
            (context.root / path).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(context.root / path, text)
        for path, text in files.changed.items():
            write_atomically(context.root / path, text)
        broken = catalog.load_usable(context.root).broken
        if problems := {why for file in broken.keys() - before_broken for why in broken[file]}:
            raise CatalogError(sorted(problems), hint="nothing was written")
    except BaseException:
        _undo(context.root, files, before, folders)
        raise
    return list(files.new)


def _missing_folders(path: Path) -> list[Path]:
    """Return the parents of a path that do not exist, the innermost first."""
    return [folder for folder in path.parents if not folder.exists()]


def _undo(root: Path, files: Files, before: Mapping[Path, str], folders: list[Path]) -> None:
    for path, text in before.items():
        write_atomically(root / path, text)
    for path in files.new:
        (root / path).unlink(missing_ok=True)
    for folder in sorted(set(folders), key=lambda folder: -len(folder.parts)):
        if folder.is_dir():
            folder.rmdir()


# Targets


def target_files(context: Context, name: str, kind: str) -> Files:
    """Return the files of a new target, modelled on the first target of its kind that builds here."""
    loaded = context.catalog
    _require_name(name, "target", [*loaded.targets, *loaded.aliases])
    model = _model(loaded, kind)
    raw = read_toml(context.root / "catalog", f"targets/{model.name}.toml", Problems()) or {}
    new = {Path("catalog", "targets", f"{name}.toml"): _target_toml(name, raw, model)}
    if model.workload:
        folder = Path("containers", name)
        module = name.replace("-", "_")
        new |= {
            folder / "Dockerfile": _DOCKERFILE.replace("NAME", name),
            folder / "requirements.in": _REQUIREMENTS,
            folder / "requirements.lock": heading(()),
            folder / "src" / "main.py": _PROGRAM.replace("NAME", name),
            folder / "tests" / f"test_{module}.py": _WORKLOAD_CHECKS.replace("NAME", name),
        }
    return Files(new=new)


def _model(loaded: Catalog, kind: str) -> Target:
    """Return the first target of a kind that this machine can build."""
    system = default_system(loaded)
    models = {
        target.kind: target
        for target in reversed(tuple(loaded.targets.values()))
        if target.default.system == system
    }
    if model := models.get(kind):
        return model
    raise UsageError(f"no target of kind '{kind}' on system '{system}' to start from", hint="builder list")


def _target_toml(name: str, raw: Table, model: Target) -> str:
    lines = [f'summary = "{name}: describe the image"']
    lines += [
        f"{key} = {_toml(raw[key])}" for key in ("inherits", "kind", "components", "if_pinned") if key in raw
    ]
    if "workload" in raw:
        lines.append(f'workload = "{name}"')
        lines += ["", _LAUNCH.rstrip()]
    if "flavours" in raw:
        own = {key: value for key, value in raw["flavours"][model.default.name].items() if key != "site"}
        lines += ["", f'[flavours."{model.default.name}"]', *(f"{key} = {_toml(own[key])}" for key in own)]
    if shape := raw.get("ami"):
        lines += ["", "[ami]", *(f"{key} = {_toml(value)}" for key, value in shape.items())]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


_LAUNCH = """\
# How `builder run` starts the program.
[launch]
runner = "none"
command = ["python", "/opt/workload/main.py"]
"""

_DOCKERFILE = """\
# The program on top of the component layers, which hold the packages of the stack and of requirements.lock in
# /opt/venv. Build context: the containers/ folder.
ARG PARENT
FROM ${PARENT}

COPY NAME/src/ /opt/workload/

ENV PATH=/opt/venv/bin:$PATH

WORKDIR /opt/workload

# Runs as user nobody: the program needs no privileges or home folder.
USER 65534:65534

CMD ["python", "/opt/workload/main.py", "--help"]
"""

_REQUIREMENTS = """\
# Python packages in addition to those of the stack; `builder lock` compiles this list into requirements.lock.
"""

_PROGRAM = '''\
"""Program of the image NAME."""

import argparse
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="NAME", description="Print the Python version of the image.")
    options.parse_args(argv)
    print(sys.version.split()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''

_WORKLOAD_CHECKS = '''\
"""Checks of the image NAME."""

PYTHON = "/opt/venv/bin/python"


def test_program_starts(host):
    assert host.check_output(f"{PYTHON} /opt/workload/main.py --help").startswith("usage: NAME")


def test_program_uses_the_virtual_environment(host):
    assert host.find_command("python") == PYTHON
'''


# Components

CHECKS = "tests"  # folder of the checks of a role


def component_files(context: Context, name: str) -> Files:
    """Return the files of a new component that installs packages of the operating system."""
    loaded = context.catalog
    _require_name(name, "component", loaded.components)
    role, catalog_file = Path("ansible", "roles", name), Path("catalog", "components", f"{name}.toml")
    toml = f'summary = "{name}: describe what it installs"\nlayer = "{_layer(loaded)}"\nrequires = ["base"]\n'
    new = {catalog_file: toml if "base" in loaded.components else toml.replace('requires = ["base"]\n', "")}
    for path, text in _ROLE.items():
        new[role / path.replace("NAME", name)] = text.replace("NAME", name)
    changed = _unused(context.root, "components", name, "new: add it to a target, then remove this line")
    if (context.root / _SCENARIO).is_file():
        text = (context.root / _SCENARIO).read_text(encoding="utf-8").rstrip("\n")
        changed[_SCENARIO] = f"{text}\n{' ' * 6}- {name}\n"
    return Files(new=new, changed=changed)


def _layer(loaded: Catalog) -> str:
    """Return the last layer below the Python packages: changes in later layers rebuild fewer layers."""
    python = [component.layer for component in loaded.components.values() if component.requirements]
    first = min((loaded.layers.index(layer) for layer in python), default=len(loaded.layers))
    return loaded.layers[max(first - 1, 0)]


_ROLE = {
    "defaults/main.yml": """\
---
# Packages to install, with the names of the system's package manager.
NAME_packages:
  - jq
""",
    "meta/argument_specs.yml": """\
---
argument_specs:
  main:
    short_description: Packages of NAME
    options:
      NAME_packages:
        description: Packages to install, with the names of the system's package manager.
        type: list
        elements: str
""",
    "tasks/main.yml": """\
---
- name: Install the packages of NAME
  ansible.builtin.include_tasks: "../../../tasks/install_{{ system_family }}.yml"
  vars:
    install_packages: "{{ NAME_packages }}"
""",
    f"{CHECKS}/test_NAME.py": '''\
"""Checks of the component NAME."""


def test_packages_are_installed(host, expected):
    wanted = expected.variables["NAME_packages"]
    assert [name for name in wanted if not host.package(name).is_installed] == []
''',
}


# Stacks

_STACK_NAME = re.compile(r"(?P<stem>cpu-[a-z]+-[\d.]+|(cuda|neuron)-\d+\.\d+)(\.\d+|-[a-z0-9.-]+)?")


def stack_files(context: Context, name: str, base: str, solved: str = "") -> Files:
    """Return the file of a new stack, with the base stack `base` or the output of `stack solve --toml`."""
    loaded = context.catalog
    _require_name(name, "stack", loaded.stacks)
    if not solved and base not in loaded.stacks:
        raise UsageError(f"no stack '{base}'{did_you_mean(base, loaded.stacks)}", hint="builder stack list")
    if not _STACK_NAME.fullmatch(name):
        model = _STACK_NAME.match(base)
        raise UsageError(
            f"stack '{name}': stack names begin with an accelerator and a version, or with cpu-SYSTEM",
            hint=f"builder init stack {model['stem']}-{name} --from {base}"
            if model
            else "builder stack list",
        )
    if solved:
        _require_version(name, solved)
    text = solved or _stack_toml(name, loaded.stacks[base])
    return Files(
        new={Path("catalog", "stacks", f"{name}.toml"): text},
        changed=_unused(context.root, "stacks", name, "new: use it in a flavour, then remove this line"),
    )


def _require_version(name: str, solved: str) -> None:
    """Raise UsageError if the CUDA or Neuron version of a solved stack differs from the stack's name."""
    accelerator, _, rest = name.partition("-")
    pin = {"cuda": "cuda", "neuron": "neuron_sdk"}.get(accelerator, "")
    found = re.search(rf'^{pin} = "(\d+\.\d+)', solved, re.MULTILINE) if pin else None
    if found and not re.match(rf"{re.escape(found[1])}(\D|$)", rest):
        purpose = re.sub(r"^[\d.]+", "", rest)
        raise UsageError(
            f"stack '{name}': the set has {pin} {found[1]}",
            hint=f"builder init stack {accelerator}-{found[1]}{purpose} --from -",
        )


def _stack_toml(name: str, base: Stack) -> str:
    pins = "".join(f'# {pin} = "{version}"\n' for pin, version in sorted(base.pins.items()))
    return f"""\
summary = "{name}: describe what differs from {base.name}"
base = "{base.name}"

# Versions that differ from the base; uncomment and change them.
[pins]
{pins}"""


# Names and lists


def _require_name(name: str, noun: str, known: Container[str]) -> None:
    if reason := name_problem(f"{noun}s", name):
        raise UsageError(f"{noun} '{name}': {reason}", hint="builder init --help")
    if name in known:
        raise UsageError(f"{noun} '{name}' exists already; nothing was written", hint="choose another name")


def _unused(root: Path, section: str, name: str, reason: str) -> dict[Path, str]:
    """Return catalog/unused.toml with one more entry; nothing if the repository lacks this file."""
    path = root / _UNUSED
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    entry = f'"{name}" = "{reason}"' if section == "stacks" else f'{name} = "{reason}"'
    return {_UNUSED: text.replace(f"[{section}]\n", f"[{section}]\n{entry}\n", 1)}
