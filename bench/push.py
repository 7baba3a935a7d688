"""Benchmark of pushes to a registry: `docker push` compared with the builder's export, compression and push.

    python -m bench.push IMAGE [--runs 3] [--json FILE]

Every cold run uses an empty registry in a separate process and, for the builder, an empty store of compressed
layers. The two methods take turns, so that changes of load affect both. Prints medians and ratios.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from builder.adapters.engine.client import Engine
from builder.adapters.registry.blobs import BlobStore, LayerBlob
from builder.adapters.registry.client import Registry, push
from builder.adapters.registry.exports import collect
from builder.adapters.registry.local import PROGRAM, DockerRegistry, serving

TIMEOUT_S = 1200
REPOSITORY = "bench/image"
AIM = 0.2  # of the time of `docker push`, for a cold push
Times = dict[str, list[float]]


class Stopwatch:
    def __init__(self) -> None:
        self.times: Times = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.times.setdefault(name, []).append(time.monotonic() - began)


def push_by_docker(image: str, registry: DockerRegistry, watch: Stopwatch) -> None:
    name = f"{registry.find()}/{REPOSITORY}:1"
    login = registry.credentials
    _docker("login", registry.find(), "-u", login.username, "--password-stdin", stdin=login.password)
    _docker("tag", image, name)
    try:
        for case in ("docker push, cold", "docker push, again"):
            with watch.measure(case):
                _docker("push", "--quiet", name)
    finally:
        _docker("rmi", name)
        _docker("logout", registry.find())


def push_by_us(image: str, server: DockerRegistry, folder: Path, watch: Stopwatch) -> int:
    engine = Engine()
    found = engine.inspect_image(image)
    if found is None:
        sys.exit(f"no image {image} in the engine")
    store = BlobStore(folder)

    def gather() -> tuple[bytes, tuple[LayerBlob, ...]]:
        return collect(
            lambda: engine.export(image),
            image_id=found["Id"],
            diff_ids=found["RootFS"]["Layers"],
            store=store,
            storage=engine.storage,
        )

    def connect() -> Registry:
        return Registry(server.find(), credentials=server.credentials)

    def publish(repository: str) -> None:
        with connect() as registry:
            push(*gather(), registry=registry, repository=repository, tags=("1",))

    with watch.measure("ours, cold"):
        with watch.measure("  export and compress"):
            config, layers = gather()
        with watch.measure("  push"), connect() as registry:
            push(config, layers, registry=registry, repository=REPOSITORY, tags=("1",))
    with watch.measure("ours, again"):
        publish(REPOSITORY)
    # The repository is empty, but an earlier run has compressed the layers.
    with watch.measure("ours, layers stored"):
        publish(f"{REPOSITORY}-2")
    return sum(layer.size_bytes for layer in layers)


def _docker(*arguments: str, stdin: str = "") -> None:
    command = ["docker", *arguments]
    ended = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ended.returncode:
        sys.exit(f"docker {' '.join(arguments)}: {ended.stderr.strip()}")


def measure(image: str, runs: int) -> tuple[Times, int]:
    watch, size = Stopwatch(), 0
    for number in range(runs):
        methods: list[Callable[[DockerRegistry, Path], None]] = []

        def by_docker(registry: DockerRegistry, _folder: Path) -> None:
            push_by_docker(image, registry, watch)

        def by_us(registry: DockerRegistry, folder: Path) -> None:
            nonlocal size
            size = push_by_us(image, registry, folder, watch)

        methods = [by_docker, by_us] if number % 2 == 0 else [by_us, by_docker]
        for push_image in methods:
            folder = Path(tempfile.mkdtemp(prefix="factory-bench-"))
            try:
                with serving(folder / "registry") as registry:
                    push_image(registry, folder / "store")
            finally:
                shutil.rmtree(folder)
    return watch.times, size


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", help="image in the engine, preferably of a few hundred MB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    found = Engine().inspect_image(chosen.image)
    if found is None:
        sys.exit(f"no image {chosen.image} in the engine")
    size, layers = found["Size"], len(found["RootFS"]["Layers"])
    results: dict[str, object] = {"image_bytes": size, "layers": layers}
    print(f"{size / 1e6:.0f} MB in {layers} layers, {chosen.runs} runs, medians")
    times, compressed = measure(chosen.image, chosen.runs)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"\n{PROGRAM} ({compressed / 1e6:.0f} MB compressed by the builder)")
    for name, median in medians.items():
        base = medians["docker push, again" if "again" in name else "docker push, cold"]
        print(f"  {name:<24} {median:8.3f} s   {median / base:6.2f} of docker push")
    ratio = medians["ours, cold"] / medians["docker push, cold"]
    print(f"  cold push to docker push: {ratio:.2f}, aim ≤ {AIM:g}: {'met' if ratio <= AIM else 'missed'}")
    results[PROGRAM] = {"seconds": times, "medians": medians, "compressed_bytes": compressed}
    if chosen.json:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
