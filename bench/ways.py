"""Build methods for the same roles, with warm caches: Packer, a Dockerfile and the factory."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from bench.bed import BASE, PREFIX, TOOLS, Bed, container_environment
from bench.programs import output_of, timed
from builder.adapters.container.maker import sweep
from builder.adapters.engine.client import LAYERS, Engine, built_by
from builder.adapters.host.workspace import Workspace

_HERE = Path(__file__).resolve().parent
_CONTAINER = f"{PREFIX}-packer"
_COLLECTIONS = "collections"


class BuildMethod(Protocol):
    """Method that builds an image with the eight roles of the benchmark."""

    name: str
    title: str
    is_cached: bool

    def build(self) -> float: ...

    def image(self) -> str: ...

    def remove_images(self) -> None:
        """Remove the images of a round but keep the caches."""

    def clear(self) -> None:
        """Remove all images, containers and build records of this method."""


def link_folder(source: Path, target: Path) -> None:
    """Hard-link the files of a folder; keep the folder's mtime, which apt takes as the age of its lists."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "partial").mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            os.link(file, target / file.name)
    stamp = source.stat().st_mtime
    os.utime(target, (stamp, stamp))


class Packer:
    """Packer's docker builder, with Ansible on the host: a single play and a single commit."""

    name = "packer"
    title = "Packer, docker builder + ansible provisioner"
    is_cached = False

    def __init__(self, bed: Bed, *, packer: Path, docker: Path) -> None:
        self._bed = bed
        self._packer = packer
        self._docker = docker
        self._folder = bed.work / "packer"

    def prepare(self) -> None:
        collections = self._bed.home / _COLLECTIONS
        if not (collections / "ansible_collections" / "community" / "docker").is_dir():
            shutil.rmtree(collections, ignore_errors=True)
            output_of(
                [
                    *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                    *("--no-compile", "--target", str(collections), "-r", str(_HERE / "peers.lock")),
                ]
            )
        link_folder(self._bed.store / "archives", self._folder / "apt" / "archives")
        link_folder(self._bed.store / "lists", self._folder / "lists")
        connection = {
            "ansible_connection": "community.docker.docker",
            "ansible_host": _CONTAINER,
            "ansible_docker_extra_env": {
                name: value for name, value in container_environment().items() if "ANSIBLE" not in name
            },
        }
        (self._folder / "connection.json").write_text(json.dumps(connection), encoding="utf-8")

    def build(self) -> float:
        variables = {
            "base": BASE,
            "container": _CONTAINER,
            "tag": self.image(),
            "folder": str(self._folder),
            "ansible": str(self._bed.repository / "ansible"),
            "ansible_playbook": str(Path(sys.executable).with_name("ansible-playbook")),
            "collections": str(self._bed.home / _COLLECTIONS),
        }
        words = [f"-var={name}={value}" for name, value in variables.items()]
        environment = os.environ | {
            "PATH": f"{self._docker.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "CHECKPOINT_DISABLE": "1",
            "PACKER_CONFIG_DIR": str(self._folder),
            "PACKER_CACHE_DIR": str(self._folder / "cache"),
        }
        argv = [str(self._packer), "build", "-color=false", *words, str(_HERE / "image.pkr.hcl")]
        return timed(argv, env=environment, cwd=self._folder, log=self._bed.log)

    def image(self) -> str:
        return f"{PREFIX}:packer"

    def remove_images(self) -> None:
        self._bed.engine.remove_container(_CONTAINER)
        self._bed.engine.remove_image(self.image())

    def clear(self) -> None:
        self.remove_images()


class Dockerfile:
    """BuildKit build: one RUN per role, Ansible mounted from an image, apt's folders in cache mounts."""

    name = "dockerfile"
    title = "Dockerfile, BuildKit, one RUN per role"
    is_cached = True

    def __init__(self, bed: Bed, *, docker: Path) -> None:
        self._bed = bed
        self._docker = docker

    def prepare(self) -> None:
        # ROUND makes the step unique; BuildKit would skip a cached step and leave the cache mounts empty.
        self._build("warm.Dockerfile", _HERE, f"{PREFIX}:warm")

    def build(self) -> float:
        return self._build("Dockerfile", self._bed.repository / "ansible", self.image())

    def _build(self, file: str, context: Path, tag: str) -> float:
        arguments = (f"BASE={BASE}", f"TOOLS={TOOLS}", f"ROUND={os.getpid()}")
        argv = [
            *(str(self._docker), "build", "--progress=plain", "--network=host"),
            *("--tag", tag, "--label", PREFIX),
            *(word for argument in arguments for word in ("--build-arg", argument)),
            *("--file", str(_HERE / file), str(context)),
        ]
        environment = os.environ | {"DOCKER_BUILDKIT": "1"}
        return timed(argv, env=environment, cwd=self._bed.work, log=self._bed.log)

    def image(self) -> str:
        return f"{PREFIX}:dockerfile"

    def remove_images(self) -> None:
        for image in self._bed.engine.labelled(PREFIX):
            for reference in (*image.tags, image.id):
                self._bed.engine.remove_image(reference)

    def clear(self) -> None:
        """Remove the benchmark's images and BuildKit records; repeat until parent records are removed too."""
        self.remove_images()
        while records := _records(self._bed.engine):
            freed = [record for record in records if self._prune(record)]
            if not freed:
                return

    def _prune(self, record: str) -> bool:
        filters: Any = {"id": [record]}
        freed = self._bed.engine.connect().prune_builds(filters=filters, all=True)
        return bool(freed["CachesDeleted"])


def _records(engine: Engine) -> list[str]:
    found = engine.connect().df().get("BuildCache") or []
    marks = (PREFIX, "/dev/factory")
    return [record["ID"] for record in found if any(mark in record["Description"] for mark in marks)]


class Factory:
    """Build method of the factory: `builder build`, including the check of the image."""

    name = "factory"
    title = "builder build"
    is_cached = True

    def __init__(self, bed: Bed) -> None:
        self._bed = bed

    def build(self, *targets: str, jobs: int | None = None, trace: Path | None = None) -> float:
        """Build targets; write the times of the engine's calls to `trace`."""
        names: Sequence[str] = targets or ("measured",)
        program = ["bench.traced", str(trace)] if trace else ["builder.cli.main"]
        argv = [
            *(sys.executable, "-m", *program, "build", "--root", str(self._bed.repository)),
            *(word for name in names for word in ("--target", name)),
            *(("--jobs", str(jobs)) if jobs else ()),
        ]
        return timed(argv, env=self._bed.environment(), cwd=Path.cwd(), log=self._bed.log)

    def lock(self) -> None:
        """Lock the benchmark's repository, including its Python packages."""
        argv = [sys.executable, "-m", "builder.cli.main", "lock", "--root", str(self._bed.repository)]
        timed(argv, env=self._bed.environment(), cwd=Path.cwd(), log=self._bed.log)

    def image(self) -> str:
        return f"{LAYERS}:{self._bed.plan().key}"

    def steps(self) -> dict[str, float]:
        """Return the seconds of each step of the last run, from its events."""
        ends = [event for event in self.events() if event["name"] == "step.end"]
        return {event["step"].partition("/")[2]: event["fields"]["seconds"] for event in ends}

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the last run."""
        last = max((self._bed.repository / "out" / "runs").iterdir())
        return [
            json.loads(line) for line in (last / "events.ndjson").read_text(encoding="utf-8").splitlines()
        ]

    def clear(self) -> None:
        self.remove_images()

    def remove_images(self) -> None:
        """Remove the images of all runs except the base image, which other builds on this machine share."""
        out = self._bed.repository / "out"
        for name in _names(out / "runs"):
            sweep(self._bed.engine, name)
        own = f"{built_by(Workspace(home=out, out=out).checkout)}:"
        for image in self._bed.engine.images():
            if any(tag.startswith(own) for tag in image.tags) and not self._is_base(image.id):
                for reference in (*image.tags, image.id):
                    self._bed.engine.remove_image(reference)

    def _is_base(self, image: str) -> bool:
        found = self._bed.engine.inspect_image(image)
        return found is not None and len(found["RootFS"]["Layers"]) == 1


def _names(folder: Path) -> Iterable[str]:
    with suppress(FileNotFoundError):
        yield from sorted((path.name for path in folder.iterdir()), reverse=True)
