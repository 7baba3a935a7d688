"""`python -m bench`: rounds of builds in turn, so that noise meets every way alike; then tables and JSON.

Everything it makes in the engine is removed at the end, also after Ctrl-C; caches stay in out/bench.
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

from bench import bed as beds
from bench import figures
from bench.bed import BASE, BRANCHES, TOOLS, Bed
from bench.figures import Sample
from bench.programs import find_client, find_program, said
from bench.ways import Dockerfile, Factory, Packer, Way
from builder.adapters.engine.client import Engine
from builder.errors import FactoryError, MissingError

_ROOT = Path(__file__).resolve().parents[1]
_RESULT = _ROOT / "out" / "bench.json"
_PAGE = _ROOT / "docs" / "performance.md"
_CASES = ("cold", "change", "noop", "targets")
_NOOPS = 5  # of each way and round: a no-op is short, and noise is not
_CHANGED = 4  # index, in canonical order, of the role that changes


class Rounds:
    """Takes the samples."""

    def __init__(self, bed: Bed, ways: Sequence[Way], factory: Factory, cases: Sequence[str]) -> None:
        self._bed = bed
        self._ways = ways
        self._factory = factory
        self._cases = cases
        self.samples: list[Sample] = []
        self.sizes: dict[str, int] = {}

    def take(self, number: int) -> None:
        """One round; the order of the ways turns from round to round."""
        turned = [*self._ways[number % len(self._ways) :], *self._ways[: number % len(self._ways)]]
        roles = self._bed.plan().components
        if set(self._cases) - {"targets"}:
            self._bed.edit(roles[0])
            self._cold(number, turned)
        cached = [way for way in turned if way.is_cached]
        if "noop" in self._cases:
            for _ in range(_NOOPS):
                for way in cached:
                    self._sample("noop", way, number, way.build)
        if "change" in self._cases:
            self._bed.edit(roles[_CHANGED])
            for way in cached:
                self._sample("change", way, number, way.build)
        if "targets" in self._cases:
            self._targets(number)
        for way in self._ways:
            way.forget()

    def _cold(self, number: int, ways: Sequence[Way]) -> None:
        for way in ways:
            if "cold" in self._cases:
                self._sample("cold", way, number, way.build)
                self.sizes[way.name] = self._size(way.image())
            elif way.is_cached:
                way.build()

    def _targets(self, number: int) -> None:
        """Four branches over a layer that they share and that is there already."""
        ways: list[tuple[str, int]] = [("serial", 1), ("parallel", os.cpu_count() or 1)]
        for case, jobs in ways if number % 2 else reversed(ways):
            self._bed.edit("base")
            self._sample("shared", self._factory, number, partial(self._factory.build, "shared"))
            self._sample(case, self._factory, number, partial(self._factory.build, *BRANCHES, jobs=jobs))

    def _sample(self, case: str, way: Way, number: int, build: Callable[[], float]) -> None:
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
            raise MissingError("another bench runs in this checkout", hint="wait for its end") from error
        yield


def _stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _clear(bed: Bed, ways: Sequence[Way]) -> None:
    """Nothing of the bench stays in the engine; a second signal must not stop this half-way."""
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)}
    with ExitStack() as stack:
        for one, action in before.items():
            stack.callback(signal.signal, one, action)
        # Last in, first out; and the rest is cleared even if one of them fails.
        for image in (BASE, TOOLS):
            stack.callback(bed.engine.remove_image, image)
        for way in ways:
            stack.callback(way.clear)


def _prepare(bed: Bed, packer: Packer, dockerfile: Dockerfile, factory: Factory, docker: Path) -> None:
    """Fills the caches of all ways from one source, so that no timed build meets the network."""
    for folder in (bed.repository, bed.work / "packer"):
        shutil.rmtree(folder, ignore_errors=True)
    beds.make_repository(bed)
    beds.write_site(bed)
    beds.download_wheels(bed)
    factory.lock()
    bed.edit("base")
    factory.build()
    beds.share_base(bed)
    beds.make_tools(bed, docker)
    beds.import_tools(bed)
    packer.prepare()
    dockerfile.prepare()


def _facts(engine: Engine, packer: Path, rounds: int) -> dict[str, Any]:
    info = engine.info()
    processor = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    ansible = said([str(Path(sys.executable).with_name("ansible-playbook")), "--version"])
    return {
        "cores": os.cpu_count(),
        "processor": processor[1] if processor else platform.machine(),
        "memory_gib": round(info["MemTotal"] / 2**30),
        "engine": info["ServerVersion"],
        "storage": info["Driver"],
        "packer": said([str(packer), "version"]).splitlines()[0].removeprefix("Packer v"),
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
    ways: tuple[Way, ...] = (packer, dockerfile, factory)
    with ExitStack() as stack:
        stack.enter_context(_bench_lock(bed.work))
        _clear(bed, ways)  # of a bench that was killed
        stack.callback(_clear, bed, ways)
        bed.log.write_bytes(b"")
        facts = _facts(engine, program, rounds)
        print("preparing: packages, wheels, Ansible, base image", file=sys.stderr)
        _prepare(bed, packer, dockerfile, factory, docker)
        taken = Rounds(bed, ways, factory, cases)
        for number in range(rounds):
            taken.take(number)
        facts["load_after"] = os.getloadavg()[0]
    return figures.summarize(taken.samples, taken.sizes, facts, {way.name: way.title for way in ways})


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--runs", type=int, default=3, metavar="N", help="rounds (default: 3)")
    options.add_argument("--only", action="append", choices=_CASES, metavar="NAME", help=", ".join(_CASES))
    options.add_argument(
        "--write-docs", action="store_true", help=f"write {_RESULT.name} into {_PAGE.name}, measure nothing"
    )
    parsed = options.parse_args(argv)
    if parsed.write_docs:
        figures.write_docs(json.loads(_RESULT.read_text(encoding="utf-8")), _PAGE)
        return 0
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _stop)
    try:
        result = _measure(max(1, parsed.runs), parsed.only or _CASES)
    except FactoryError as error:
        print(
            "\n".join(filter(None, (f"error: {error}", error.details, f"hint: {error.hint}"))),
            file=sys.stderr,
        )
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; nothing of the bench is left in the engine", file=sys.stderr)
        return 130
    figures.save(result, _RESULT)
    print(figures.as_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
