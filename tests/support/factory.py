"""Real builds for tests: the `builder` program on a small repository, with the real engine and Ansible."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker

from builder.adapters.engine.client import LAYERS, Engine, built_by
from builder.adapters.host.workspace import Workspace
from builder.marks import RUN_LABEL
from tests.support.repository import Repository

BOUND_S = 600
RUNNER = ("ansible.cfg", "expected.yml", "image.yml", "requirements.lock", "plugins", "tasks")
FILES = {
    "catalog/layers.toml": 'order = ["system", "fabric", "final"]\n',
    "catalog/components/base.toml": 'summary = "a greeting"\nlayer = "system"\n',
    "catalog/components/fabric.toml": """
        summary = "loops and a handler"
        layer = "final"
        requires = ["base"]
        pinned = true
    """,
    "catalog/targets/hello.toml": """
        summary = "says hello"
        kind = "container"
        components = ["fabric", "workload_env"]
        workload = "hello"
        [flavours.plain]
        summary = "the default"
        system = "debian-12"
        stack = "plain-1"
        [variables]
        base_greeting = "hello"
        fabric_tools = true
    """,
    "ansible/roles/base/defaults/main.yml": "base_greeting: none\n",
    "ansible/roles/base/templates/greeting.j2": "{{ base_greeting }}\n",
    "ansible/roles/base/tasks/main.yml": """
        - name: Write the greeting
          ansible.builtin.template:
            src: greeting.j2
            dest: /etc/greeting
            mode: "0644"
          register: base_result
    """,
    "ansible/roles/base/tests/test_base.py": """
        def test_greeting(host, expected):
            assert host.file("/etc/greeting").content_string.strip() == expected.variables["base_greeting"]
    """,
    "ansible/roles/fabric/tasks/main.yml": """
        - name: Write files in a loop
          ansible.builtin.copy:
            content: "{{ item }}"
            dest: "/etc/fabric-{{ item }}"
            mode: "0644"
          loop: [a, b]
          notify: Write a file
        - name: Write what another role registered
          ansible.builtin.copy:
            content: leaked
            dest: /etc/leaked
            mode: "0644"
          when: base_result is defined
    """,
    "ansible/roles/fabric/handlers/main.yml": """
        - name: Write a file
          ansible.builtin.copy:
            content: handled
            dest: /etc/fabric-handled
            mode: "0644"
    """,
}


@dataclass
class Build:
    """Exit code, output and events of a finished `builder` command."""

    code: int
    stdout: str
    stderr: str
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def outcomes(self) -> dict[str, str]:
        """Return the outcome of each step, by the name of the step within the target."""
        ends = [event for event in self.events if event["name"] == "step.end"]
        return {event["step"].split("/")[1]: event["fields"]["outcome"] for event in ends}


@dataclass
class Factory:
    """A small repository and a BUILDER_HOME folder, with methods that run `builder` on them."""

    repository: Repository
    home: Path
    engine: Engine = field(default_factory=Engine)

    @classmethod
    def create(cls, folder: Path, *, home: Path, root: Path) -> "Factory":
        repository = Repository.create(folder / "repository")
        for name, text in FILES.items():
            repository.write(name, text)
        factory = cls(repository=repository, home=home)
        repository.replace("catalog/targets/hello.toml", '"hello"\nfabric', f'"{factory.greeting}"\nfabric')
        shutil.copy(root / "catalog/systems/debian-12.toml", repository.root / "catalog/systems")
        (repository.root / "catalog/systems/tiny-1.toml").unlink()
        for name in RUNNER:
            source, target = root / "ansible" / name, repository.root / "ansible" / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        repository.relock()
        return factory

    @property
    def greeting(self) -> str:
        """Greeting that makes layer keys unique, so that no test reuses layers of another test or worker."""
        folder = self.repository.root.parent
        return f"{folder.name} in {folder.parent}"

    def use_role(self, root: Path, name: str, component: str) -> None:
        """Copy a role of this checkout into the repository; `component` is the text of its component file."""
        self.repository.write(f"catalog/components/{name}.toml", component)
        target = self.repository.root / "ansible/roles" / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(root / "ansible/roles" / name, target, ignore=shutil.ignore_patterns("__pycache__"))

    @property
    def out(self) -> Path:
        return self.repository.root / "out"

    def environment(self) -> dict[str, str]:
        return os.environ | {"BUILDER_HOME": str(self.home), "NO_COLOR": "1"}

    def argv(self, *words: str) -> list[str]:
        end = words.index("--") if "--" in words else len(words)
        root = ("--root", str(self.repository.root))
        return [sys.executable, "-m", "builder.cli.main", *words[:end], *root, *words[end:]]

    def call(self, *words: str, **environment: str) -> Build:
        done = subprocess.run(
            self.argv(*words),
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        return Build(code=done.returncode, stdout=done.stdout, stderr=done.stderr)

    def python(self, code: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=True,
        )

    def build(self, *words: str, **environment: str) -> Build:
        build = self.call("build", "--json", *(words or ("--target", "hello")), **environment)
        tables = [json.loads(line) for line in build.stdout.splitlines() if line.startswith("{")]
        build.events = [table for table in tables if "format" not in table]  # the last line is the envelope
        return build

    @contextmanager
    def started(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """Start a build; kill it at the end of the block if it still runs."""
        yield from self._started("build", "--json", *(words or ("--target", "hello")))

    @contextmanager
    def running(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """Start a command; kill it at the end of the block if it still runs."""
        yield from self._started(*words)

    def _started(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            self.argv(*words),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate(timeout=BOUND_S)

    def signalled(self, number: signal.Signals, moment: tuple[str, str], *words: str, skip: int = 0) -> int:
        """Send a signal to a build at the (event, step) pair `moment`; return the exit code of the build.

        Skips the first `skip` events that match `moment`.
        """
        with self.started(*words) as process:
            assert process.stdout
            for line in process.stdout:
                event = json.loads(line)
                if (event.get("name"), event.get("step")) == moment:
                    if skip == 0:
                        break
                    skip -= 1
            else:
                raise AssertionError(f"the build ended before {moment}")
            process.send_signal(number)
            process.communicate(timeout=BOUND_S)
            return process.returncode

    def run_names(self) -> list[str]:
        return [path.name for path in (self.out / "runs").glob("*")]

    def containers(self) -> list[str]:
        """Return the ids of the containers that builds of this repository left in the engine."""
        return [
            container["Id"]
            for name in self.run_names()
            for container in self.engine.containers(f"{RUN_LABEL}={name}")
        ]

    def untagged(self) -> list[str]:
        """Return the ids of the untagged images that builds of this repository left in the engine."""
        return [
            image.id
            for name in self.run_names()
            for image in self.engine.labelled(f"{RUN_LABEL}={name}")
            if not image.tags and not self._has_child(image.id)
        ]

    def _has_child(self, image: str) -> bool:
        images = self.engine.connect().images(all=True)
        return any(other["ParentId"] == image for other in images)

    def scratch(self) -> list[str]:
        return [path.name for path in (self.home / "scratch").glob("*")]

    def in_image(self, image: str, *command: str) -> str:
        """Run a command in a container of an image; return its complete stdout."""
        client = docker.DockerClient(base_url=self.engine.url)
        container = client.containers.create(image, list(command), network_mode="none", entrypoint=[])
        try:
            container.start()
            code = container.wait()["StatusCode"]
            assert code == 0, f"{command} ended with {code}: {container.logs(stdout=False).decode()}"
            return str(container.logs(stderr=False).decode())
        finally:
            container.remove(force=True)

    def copy(self, folder: Path) -> "Factory":
        """Copy the repository with its receipts to another folder; return a factory that uses the copy."""
        target = folder / "repository"
        shutil.copytree(self.repository.root, target)
        return Factory(repository=Repository(target), home=self.home)

    def remove_images(self, names: Sequence[str], *, keep: str = "") -> None:
        """Remove the layers of this repository except the layer `keep`, and images that runs `names` left."""
        kept, own = f"{LAYERS}:{keep}", f"{built_by(Workspace(home=self.home, out=self.out).checkout)}:"
        made = [
            image
            for image in self.engine.images()
            if kept not in image.tags and any(tag.startswith(own) for tag in image.tags)
        ]
        made += [image for name in names for image in self.engine.labelled(f"{RUN_LABEL}={name}")]
        for image in sorted(made, key=lambda image: -image.created):
            for reference in (*image.tags, image.id):
                self.engine.remove_image(reference)

    def remove_layer(self, name: str) -> None:
        key = self.repository.keys()[name]
        self.engine.remove_image(f"{LAYERS}:{key}")
