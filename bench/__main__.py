"""`python -m bench`: time builds with Packer, a Dockerfile and the factory; print tables and write JSON.

The methods take turns in every round, so that noise affects all of them. All images and containers are
removed at the end, also after Ctrl-C; caches stay in out/bench.
"""

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from bench import amis, checks, figures, profile
from bench import bed as beds
from bench.amis import Amis
from bench.bed import BASE, BRANCHES, TOOLS, Bed
from bench.figures import Sample
from bench.programs import find_client, find_program, output_of
from bench.ways import BuildMethod, Dockerfile, Factory, Packer
from builder.adapters.engine.client import Engine
from builder.errors import FactoryError, MissingError

_ROOT = Path(__file__).resolve().parents[1]
_RESULT = _ROOT / "out" / "bench.json"
_PAGE = _ROOT / "docs" / "performance.md"
_CASES = ("cold", "change", "noop", "targets", "checks", "ami")
_NOOPS = 5  # per method and round, because a no-op is short compared to the noise
_CHANGED = 4  # index, in canonical order, of the changed role


class Rounds:
    """Sequence of benchmark rounds with the collected samples."""

    def __init__(
        self, bed: Bed, ways: Sequence[BuildMethod], factory: Factory, amis: Amis, cases: Sequence[str]
    ) -> None:
        self._bed = bed
        self._amis = amis
        self._ways = ways
        self._factory = factory
        self._cases = cases
        self.samples: list[Sample] = []
        self.sizes: dict[str, int] = {}

    def take(self, number: int) -> None:
        """Run a round; the order of the methods rotates from round to round."""
        rotated = [*self._ways[number % len(self._ways) :], *self._ways[: number % len(self._ways)]]
        roles = self._bed.plan().components
        if set(self._cases) - {"targets", "ami"}:
            self._bed.edit(roles[0])
            self._cold(number, rotated)
        cached = [way for way in rotated if way.is_cached]
        if "noop" in self._cases:
            for _ in range(_NOOPS):
                for way in cached:
                    self._sample("noop", way, number, way.build)
        if "change" in self._cases:
            self._bed.edit(roles[_CHANGED])
            for way in cached:
                self._sample("change", way, number, way.build)
        if "checks" in self._cases:
            for case in sorted(checks.WAYS, reverse=bool(number % 2)):
                self._sample(case, self._factory, number, partial(checks.check, self._bed, case))
        if "targets" in self._cases:
            self._targets(number)
        if "ami" in self._cases:
            for case in sorted(amis.WAYS, reverse=bool(number % 2)):
                self._sample(case, self._amis, number, partial(self._amis.build, case))
        for way in self._ways:
            way.remove_images()

    def _cold(self, number: int, ways: Sequence[BuildMethod]) -> None:
        for way in ways:
            if "cold" in self._cases:
                self._sample("cold", way, number, way.build)
                self.sizes[way.name] = self._size(way.image())
            elif way.is_cached:
                way.build()

    def _targets(self, number: int) -> None:
        """Build four targets over an existing shared layer, with one job and with all cores."""
        ways: list[tuple[str, int]] = [("serial", 1), ("parallel", os.cpu_count() or 1)]
        for case, jobs in ways if number % 2 else reversed(ways):
            self._bed.edit("base")
            self._sample("shared", self._factory, number, partial(self._factory.build, "shared"))
            self._sample(case, self._factory, number, partial(self._factory.build, *BRANCHES, jobs=jobs))

    def _sample(self, case: str, way: BuildMethod | Amis, number: int, build: Callable[[], float]) -> None:
        load = os.getloadavg()[0]
        seconds = build()
        is_cold = case == "cold" and isinstance(way, Factory)
        steps = way.steps() if is_cold and isinstance(way, Factory) else {}
        sample = Sample(case=case, way=way.name, round=number, seconds=seconds, load=load, steps=steps)
        self.samples.append(sample)
        line = f"  round {number + 1}  {case:<8}  {way.name:<10}  {seconds:8.2f} s  (load {load:.1f})"
        print(line, file=sys.stderr)

    def _size(self, image: str) -> int:
        found = self._bed.engine.inspect_image(image)
        return int(found["Size"]) if found else 0


@contextmanager
def _bench_lock(work: Path) -> Iterator[None]:
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MissingError(
                "another benchmark runs in this checkout", hint="wait until the other benchmark ends"
            ) from error
        yield


def _stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _clear(bed: Bed, ways: Sequence[BuildMethod | Amis]) -> None:
    """Remove everything that the benchmark created in the engine, ignoring further signals."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as stack:
        for number, action in before.items():
            stack.callback(signal.signal, number, action)
        # The ExitStack runs all callbacks, last one first, even if some of them fail.
        for image in (BASE, TOOLS):
            stack.callback(bed.engine.remove_image, image)
        for way in ways:
            stack.callback(way.clear)


def _prepare_factory(bed: Bed, factory: Factory) -> None:
    """Fill the factory's caches and build everything once, so that timed builds do not use the network."""
    for folder in (bed.repository, bed.work / "packer"):
        shutil.rmtree(folder, ignore_errors=True)
    beds.make_repository(bed)
    beds.write_site(bed)
    beds.download_wheels(bed)
    factory.lock()
    bed.edit("base")
    factory.build()


def _prepare(bed: Bed, packer: Packer, dockerfile: Dockerfile, factory: Factory, docker: Path) -> None:
    """Prepare all methods with the same downloads."""
    _prepare_factory(bed, factory)
    beds.share_base(bed)
    beds.make_tools(bed, docker)
    beds.import_tools(bed)
    packer.prepare()
    dockerfile.prepare()


def _facts(engine: Engine, packer: Path, rounds: int) -> dict[str, Any]:
    info = engine.info()
    processor = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    ansible = output_of([str(Path(sys.executable).with_name("ansible-playbook")), "--version"])
    return {
        "cores": os.cpu_count(),
        "processor": processor[1] if processor else platform.machine(),
        "memory_gib": round(info["MemTotal"] / 2**30),
        "engine": info["ServerVersion"],
        "storage": info["Driver"],
        "packer": output_of([str(packer), "version"]).splitlines()[0].removeprefix("Packer v"),
        "ansible": ansible.splitlines()[0].split()[-1].rstrip("]"),
        "rounds": rounds,
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
    }


def _measure(rounds: int, cases: Sequence[str]) -> dict[str, Any]:
    engine = Engine()
    docker = find_client(engine.version()["Version"])
    program = find_program("packer", hint="apt-get install packer")
    bed = Bed(work=_ROOT / "out" / "bench", engine=engine)
    packer = Packer(bed, packer=program, docker=docker)
    dockerfile = Dockerfile(bed, docker=docker)
    factory = Factory(bed)
    ways: tuple[BuildMethod, ...] = (packer, dockerfile, factory)
    machines = Amis(bed)
    with ExitStack() as stack:
        stack.enter_context(_bench_lock(bed.work))
        everything: tuple[BuildMethod | Amis, ...] = (*ways, machines)
        _clear(bed, everything)  # leftovers of a killed benchmark
        stack.callback(_clear, bed, everything)
        bed.log.write_bytes(b"")
        facts = _facts(engine, program, rounds)
        print("preparing: packages, wheels, Ansible, base image", file=sys.stderr)
        _prepare(bed, packer, dockerfile, factory, docker)
        if "ami" in cases:
            machines.prepare()
        measured = Rounds(bed, ways, factory, machines, cases)
        for number in range(rounds):
            measured.take(number)
        facts["load_after"] = os.getloadavg()[0]
    return figures.summarize(measured.samples, measured.sizes, facts, {way.name: way.title for way in ways})


def _profile(rounds: int) -> str:
    """Time several cold builds with the factory; return tables of the median build's phases and tasks."""
    bed = Bed(work=_ROOT / "out" / "bench", engine=Engine())
    factory, spans = Factory(bed), bed.work / "trace.ndjson"
    with ExitStack() as stack:
        stack.enter_context(_bench_lock(bed.work))
        _clear(bed, (factory,))
        stack.callback(_clear, bed, (factory,))
        bed.log.write_bytes(b"")
        print("preparing: packages, wheels, Ansible, base image", file=sys.stderr)
        _prepare_factory(bed, factory)
        found = []
        for _ in range(rounds):
            factory.remove_images()
            bed.edit(bed.plan().components[0])
            seconds, events = factory.build(trace=spans), factory.events()
            found.append((seconds, profile.phases(events, profile.read_lines(spans)), events))
    seconds, phases, events = sorted(found, key=lambda build: build[0])[len(found) // 2]
    steps = sum(sum(parts.values()) for parts in phases.values())
    rest = f"steps {steps:.2f} s, all else {seconds - steps:.2f} s; load average {os.getloadavg()[0]:.1f}"
    title = f"median of {rounds} cold builds: {seconds:.2f} s ({rest})"
    return "\n\n".join([title, *map(figures.columns, (profile.rows(phases), profile.task_rows(events)))])


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: 3)")
    options.add_argument("--only", action="append", choices=_CASES, metavar="NAME", help=", ".join(_CASES))
    options.add_argument("--profile", action="store_true", help="print where the time of a cold build goes")
    options.add_argument(
        "--write-docs",
        action="store_true",
        help=f"write the figures of {_RESULT.name} into {_PAGE.name} without measuring",
    )
    parsed = options.parse_args(argv)
    if parsed.profile and (parsed.only or parsed.write_docs):
        options.error("--profile is not allowed with --only or --write-docs")
    if parsed.write_docs:
        figures.write_docs(json.loads(_RESULT.read_text(encoding="utf-8")), _PAGE)
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        if parsed.profile:
            print(_profile(max(1, parsed.runs)))
            return 0
        result = _measure(max(1, parsed.runs), parsed.only or _CASES)
    except FactoryError as error:
        print(
            "\n".join(filter(None, (f"error: {error}", error.details, f"hint: {error.hint}"))),
            file=sys.stderr,
        )
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; images and containers of the benchmark are removed", file=sys.stderr)
        return 130
    figures.save(result, _RESULT)
    print(figures.as_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
