"""A small factory repository for tests, with real files and loaders but without network access."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from builder import catalog, lock, plan, sources
from builder.model import Bootstrap, Catalog, Plan, System
from builder.stack.knowledge import Knowledge
from builder.stack.loading import load

FILES = {
    "catalog/layers.toml": """
        order = ["system", "final"]
    """,
    "catalog/sources.toml": "",
    "catalog/facts.toml": "",
    "catalog/instances.toml": """
        [m7i]
        accelerator = "none"
        accel = "none"
        arch = "x86_64"
        gdr = false
        nvswitch = "none"
        source = "tests"
        sizes.large = { dollars_per_hour = 0.1 }
    """,
    "catalog/components/base.toml": """
        summary = "users"
        layer = "system"
    """,
    "catalog/components/fabric.toml": """
        summary = "fabric"
        layer = "system"
        requires = ["base"]
        pinned = true
    """,
    "catalog/components/workload_env.toml": """
        summary = "requirements of the workload"
        layer = "final"
        requires = ["base"]
        requirements = "workload"
    """,
    "catalog/stacks/plain-1.toml": """
        summary = "a stack"
        [pins]
        fabric = "1.2-3"
    """,
    "catalog/systems/tiny-1.toml": """
        summary = "a system"
        distribution = "debian"
        family = "debian"
        release = "1"
        arches = ["x86_64"]
        python = "3.11"
        [bootstrap]
        suite = "tiny"
        packages = ["python3"]
    """,
    "catalog/targets/hello.toml": """
        summary = "says hello"
        kind = "container"
        components = ["fabric", "workload_env"]
        workload = "hello"
        [flavours.plain]
        summary = "the default"
        system = "tiny-1"
        stack = "plain-1"
    """,
    "ansible/ansible.cfg": "[defaults]\n",
    "ansible/image.yml": "[]\n",
    "ansible/requirements.lock": "",
    "ansible/roles/base/tasks/main.yml": "[]\n",
    "ansible/roles/base/defaults/main.yml": "base_user: ml\n",
    "ansible/roles/base/templates/profile.j2": "user {{ base_user }}\n",
    "ansible/roles/base/tests/test_base.py": "def test_base(host): ...\n",
    "ansible/roles/fabric/tasks/main.yml": "[]\n",
    "ansible/roles/fabric/defaults/main.yml": 'fabric_version: ""\nfabric_tools: true\n',
    "ansible/roles/workload_env/tasks/main.yml": "[]\n",
    "ansible/roles/workload_env/defaults/main.yml": "workload_env_requirements: []\n",
    "containers/hello/Dockerfile": "ARG PARENT\nFROM ${PARENT}\nCOPY hello/src/ /hello/\n",
    "containers/hello/requirements.lock": f"greet==1.0 --hash=sha256:{'0' * 64}\n",
    "containers/hello/src/hello.py": "print('hello')\n",
    "containers/hello/README.md": "not copied\n",
}


# Table that a target file with kind = "ami" needs.
AMI = '[ami]\nbuild_on = { x86_64 = "m7i.large" }\nvolume_gib = 8\nminutes = 5\n'


def flavour(system: str, stack: str, name: str = "plain") -> str:
    """Return the TOML of a flavour for a target's file."""
    return f'[flavours."{name}"]\nsummary = "a flavour"\nsystem = "{system}"\nstack = "{stack}"\n'


# Made-up lock entries for inputs that tests never download.
MADE_UP: dict[str, dict[str, str | int]] = {
    "ami": {"id": "ami-0123456789abcdef0", "name": "base", "owner": "1", "created": "2026-01-01"},
    "archive": {"sha256": "a" * 64, "size": 1},
    "git": {"commit": "b" * 40},
    "image": {"digest": f"sha256:{'c' * 64}"},
    "suite": {"sha256": "d" * 64, "date": "2026-01-01", "snapshot": "20260101T000000Z"},
}


def _entry(**values: str | int) -> lock.Entry:
    return lock.Entry(values=values, verified=True)


def knowledge_of(root: Path) -> Knowledge:
    """Load the compatibility rules and the catalog of the repository at `root`."""
    return load(root, catalog.load(root))


@dataclass(frozen=True)
class Repository:
    root: Path

    @classmethod
    def create(cls, root: Path) -> "Repository":
        repository = cls(root)
        for name, text in FILES.items():
            repository.write(name, text)
        repository.relock()
        return repository

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")

    def replace(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new), encoding="utf-8")

    def load(self) -> Catalog:
        return catalog.load(self.root)

    def relock(self) -> None:
        """Write a lock: real digests of requirements, other entries from this checkout's lock or made up."""
        real = lock.read(Path(__file__).parents[2])
        entries = {}
        for want in lock.all_wants(self.load()):
            if want.kind == "requirements":
                entries[want] = _entry(sha256=sources.file_sha256(self.root / want.subject), packages=1)
            else:
                entries[want] = real.entries.get(want) or _entry(**MADE_UP[want.kind])
        text = lock.to_text(lock.Lock(entries=entries, inputs=lock.inputs_of(entries)))
        self.write("catalog/lock.json", text)

    def plan(self, target: str = "hello") -> Plan:
        loaded = self.load()
        chosen = plan.find_target(loaded, target)
        flavour = chosen.default
        read = sources.read(self.root, loaded, chosen, flavour)
        return plan.plan(load(self.root, loaded), chosen, flavour, read, lock.read(self.root), arch="x86_64")

    def keys(self) -> dict[str, str]:
        return {layer.name: layer.key for layer in self.plan().layers}


def tiny_system(suite: str, *packages: str) -> System:
    """Return a Debian-like system that is bootstrapped from one suite."""
    return System(
        name="tiny-1",
        summary="",
        distribution="debian",
        family="debian",
        release="1",
        arches=("x86_64",),
        python="3.11",
        bootstrap=Bootstrap(suite=suite, packages=packages),
    )
