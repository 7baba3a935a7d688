"""Common inputs of all build methods: a small repository, packages and a base image.

The roles are those of this checkout. The Python packages are a few small wheels, and there is only one check,
because Packer and the Dockerfile run no checks.
"""

import json
import os
import secrets
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.programs import output_of
from builder import site
from builder.adapters.ansible import runtime
from builder.adapters.engine.client import LAYERS, Engine
from builder.adapters.host.workspace import open_run
from builder.adapters.upstream import mirror
from builder.adapters.upstream.mirror import Mirror, apt_options
from builder.app.context import Context
from builder.arch import ARCHES, of_this_machine
from builder.model import Plan
from builder.plan import variables_of

PREFIX = "factory-bench"  # of the names of all images and containers of the benchmark
BASE, TOOLS = f"{PREFIX}:base", f"{PREFIX}:tools"
CHECKED = "def test_the_image_starts(host):\n    assert host.file('/etc/passwd').is_file\n"
_CHECKOUT = Path(__file__).resolve().parents[1]
_HERE = Path(__file__).resolve().parent
_RUNNER = ("ansible.cfg", "expected.yml", "image.yml", "plugins", "tasks")
ROLES = ("base", "limits", "packages", "python_env", "rdma_core", "libfabric", "openmpi", "cleanup")
SHARED = ("base", "limits", "packages")
_FABRIC = (*SHARED, "rdma_core", "libfabric", "openmpi", "cleanup")
_PYTHON = (*SHARED, "python_env", "cleanup")
# Targets that share only their first layer.
BRANCHES = {
    "fabric-1": (_FABRIC, 'openmpi_bridges = ["one0"]'),
    "fabric-2": (_FABRIC, 'openmpi_bridges = ["two0"]'),
    "python-1": (_PYTHON, 'python_env_path = "/opt/one"'),
    "python-2": (_PYTHON, 'python_env_path = "/opt/two"'),
}
_TARGET = """\
summary = "for the bench"
kind = "container"
components = {components}
[flavours.debian-12]
summary = "the default"
system = "debian-12"
stack = "cpu-debian-12"
[variables]
{variables}
"""
# Script for RUN in the Dockerfile: applies a role in the container.
_ROLE = f"""\
#!/bin/sh
exec python3 -I {runtime.MOUNT}/run/launch.py -i localhost, -c local \\
    -e @{runtime.MOUNT}/run/variables.json -e "{{\\"image_components\\": [\\"$1\\"]}}" image.yml
"""


@dataclass(frozen=True, kw_only=True)
class Bed:
    """Folders of a benchmark run; `home` with the caches is kept between runs."""

    work: Path
    engine: Engine

    @property
    def repository(self) -> Path:
        return self.work / "repository"

    @property
    def home(self) -> Path:
        return self.work / "home"

    @property
    def packages(self) -> Path:
        return self.work / "packages"

    @property
    def tools(self) -> Path:
        return self.work / "packer" / "tools"

    @property
    def log(self) -> Path:
        return self.work / "log.txt"

    def environment(self) -> dict[str, str]:
        """Return the environment of the factory, with its own caches and byte code outside the checkout."""
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return inherited | {
            "PYTHONPYCACHEPREFIX": str(self.home / "bytecode"),
            "BUILDER_HOME": str(self.home),
            "BUILDER_SITE_FILE": str(self.work / "site.toml"),
            "NO_COLOR": "1",
        }

    @property
    def store(self) -> Path:
        """Return the folder of Debian packages and package lists in the factory's cache."""
        plan = self.plan()
        return self.home / "cache" / "apt" / f"{plan.system.name}-{plan.arch}"

    def plan(self, target: str = "measured") -> Plan:
        return Context(self.repository).plan(target)

    def edit(self, role: str) -> None:
        """Change a comment in a role, which changes the key of the role's layer but not the image."""
        tasks = self.repository / "ansible" / "roles" / role / "tasks" / "main.yml"
        text = tasks.read_text(encoding="utf-8").partition("# bench ")[0]
        tasks.write_text(f"{text}# bench {secrets.token_hex(8)}\n", encoding="utf-8")


def make_repository(bed: Bed) -> None:
    """Create a repository with the checkout's catalog and roles and the benchmark's targets and packages."""
    root = bed.repository
    without = shutil.ignore_patterns("__pycache__", "tests", "molecule")
    shutil.copytree(_CHECKOUT / "ansible", root / "ansible", ignore=without)
    shutil.copytree(
        _CHECKOUT / "catalog", root / "catalog", ignore=shutil.ignore_patterns("targets", "aliases.toml")
    )
    shutil.copy(_HERE / "requirements.lock", root / "catalog" / "stacks" / "cpu-debian-12.requirements.lock")
    (root / "catalog" / "stacks" / "cpu-debian-12.requirements.in").unlink()  # lists PyTorch
    check = root / "ansible" / "roles" / "base" / "tests" / "test_base.py"
    check.parent.mkdir()
    check.write_text(CHECKED, encoding="utf-8")
    targets = {"measured": (ROLES, ""), "shared": (SHARED, ""), **BRANCHES}
    (root / "catalog" / "targets").mkdir()
    for name, (components, variables) in targets.items():
        text = _TARGET.format(components=json.dumps(components), variables=variables)
        (root / "catalog" / "targets" / f"{name}.toml").write_text(text, encoding="utf-8")


def download_wheels(bed: Bed) -> None:
    """Download the Python packages to a local folder and index."""
    wheels = bed.packages / "wheels"
    wanted = (_HERE / "requirements.lock").read_text(encoding="utf-8")
    stamp = bed.packages / "requirements.lock"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(bed.packages, ignore_errors=True)
    wheels.mkdir(parents=True)
    system = bed.plan().system
    platforms = [word for name in ARCHES[of_this_machine()].wheel_platforms for word in ("--platform", name)]
    output_of(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
            *("--only-binary=:all:", "--python-version", system.python, "--implementation", "cp", *platforms),
            *("--dest", str(wheels), "--requirement", str(_HERE / "requirements.lock")),
        ]
    )
    for wheel in wheels.glob("*.whl"):
        name = wheel.name.split("-")[0].replace("_", "-").lower()
        page = bed.packages / "index" / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="../../wheels/{wheel.name}">{wheel.name}</a>\n', encoding="utf-8")
    stamp.write_text(wanted, encoding="utf-8")


def write_site(bed: Bed) -> None:
    """Write the user's site file, with pip restricted to the local packages."""
    index = f"file://{bed.packages}/index"
    settings = site.load(_CHECKOUT).mirror
    values = {
        name: getattr(settings, name) for name in ("apt", "apt_security", "ca_bundle", "proxy", "no_proxy")
    }
    values |= {
        "pip_index": index,
        "pip_extra_indexes": [index],
        "pip_find_links": [f"{bed.packages}/wheels"],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items() if value]
    (bed.work / "site.toml").write_text("\n".join(["[mirror]", *lines, ""]), encoding="utf-8")


def share_base(bed: Bed) -> None:
    """Tag the factory's base image for use by all methods."""
    repository, _, tag = BASE.partition(":")
    bed.engine.tag(f"{LAYERS}:{bed.plan().layers[0].key}", repository, tag)


def discover_mirror(bed: Bed) -> Mirror:
    """Return the mirror that the factory's containers use in this run."""
    context = Context(bed.repository)
    plan = bed.plan()
    stack = context.catalog.stacks[plan.stack.name]
    return mirror.discover(site.load(_CHECKOUT).mirror, plan.system, stack, plan.suites)


def make_tools(bed: Bed, docker: Path) -> None:
    """Write the role variables and settings that the other methods use, with the values of the factory."""
    plan = bed.plan()
    found = discover_mirror(bed)
    folder = bed.tools
    run = folder / "run"
    run.mkdir(parents=True)
    variables = {
        **plan.capabilities,
        **variables_of(plan),
        "ansible_python_interpreter": "/usr/bin/python3",
        "image_components": list(plan.components),
    }
    apt = [*(f"{option};" for option in apt_options(found)), 'Dpkg::Options { "--force-unsafe-io"; };']
    texts = {
        "launch.py": runtime.launcher(runtime.MOUNT),
        "environment.json": json.dumps(container_environment()),
        "variables.json": json.dumps(variables),
        "apt.conf": "\n".join(apt) + "\n",
        "role": _ROLE,
    }
    for name, text in texts.items():
        (run / name).write_text(text, encoding="utf-8")
    (run / "role").chmod(0o755)
    sources = "\n".join(found.apt_sources) or _own_sources(docker)
    (folder / "sources.list").write_text(f"{sources}\n", encoding="utf-8")
    shutil.copytree(bed.packages, folder / "packages")


def _own_sources(docker: Path) -> str:
    return output_of(
        [
            *(
                str(docker),
                "run",
                "--rm",
                "--pull",
                "never",
                "--network",
                "none",
                "--name",
                f"{PREFIX}-sources",
            ),
            *(BASE, "cat", "/etc/apt/sources.list"),
        ]
    )


def container_environment() -> dict[str, str]:
    """Return environment variables for the Ansible modules of a role; they are not stored in the image."""
    return {
        "HOME": "/tmp/home",
        "ANSIBLE_CONFIG": f"{runtime.MOUNT}/ansible/ansible.cfg",
        "ANSIBLE_HOME": "/tmp/home/.ansible",
        "ANSIBLE_LOCAL_TEMP": "/tmp/ansible/local",
        "ANSIBLE_REMOTE_TEMP": "/tmp/ansible/remote",
        "APT_CONFIG": f"{runtime.MOUNT}/run/apt.conf",
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C.UTF-8",
        "PIP_INDEX_URL": f"file://{runtime.MOUNT}/packages/index",
    }


def import_tools(bed: Bed) -> None:
    """Import the tools, including Ansible, as an image that the Dockerfile mounts."""
    plan = bed.plan()
    context = Context(bed.repository)
    with open_run(context.workspace, "tools") as run:
        lock = bed.repository / "ansible" / "requirements.lock"
        ansible = runtime.folder_of(run, lock, python=plan.system.python, arch=plan.arch)
    tar = bed.work / "tools.tar"
    with tarfile.open(tar, "w") as archive:
        archive.add(bed.tools, ".")
        archive.add(ansible, "runtime")
        archive.add(bed.store, "apt")
        for name in _RUNNER:
            archive.add(bed.repository / "ansible" / name, f"ansible/{name}")
        for role in ROLES:
            mount_point = tarfile.TarInfo(f"ansible/roles/{role}")
            mount_point.type, mount_point.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(mount_point)
    repository, _, tag = TOOLS.partition(":")
    bed.engine.import_image(tar, repository=repository, tag=tag, changes=())
    tar.unlink()
