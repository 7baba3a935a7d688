"""Build attempts: results of finished and failed runs. Other screen tests use the sample values."""

import hashlib
from collections.abc import Iterable

from builder.errors import BuildError, FactoryError
from builder.events import Event, Scalar
from builder.model import (
    Artifact,
    Check,
    Flavour,
    Layer,
    LayerResult,
    Plan,
    Publication,
    Receipt,
    Report,
    Stack,
    System,
    Target,
)
from builder.screen.attempt import Attempt, attempt_after, attempt_of

DIGEST = "sha256:" + hashlib.sha256(b"image").hexdigest()
NAME = f"localhost:5000/cpu-ddp@{DIGEST}"
START_S = 1_700_000_000.0

# Each layer of a receipt has a name, kind, components, outcome, reason, seconds and bytes.
LAYERS = (
    ("base", "base", (), "reused", "in this engine", 0.0, 121_000_000),
    ("system", "components", ("base", "packages", "limits"), "reused", "in this engine", 0.0, 14_200_000),
    (
        "fabric",
        "components",
        ("rdma_core", "libfabric", "openmpi"),
        "built",
        "role libfabric",
        38.4,
        61_400_000,
    ),
    ("python", "components", ("python_env", "workload_env"), "pulled", "from the cache", 12.7, 742_000_000),
    ("final", "components", ("cleanup",), "built", "parent changed", 3.1, 42_000),
    ("workload", "workload", (), "built", "changed: Dockerfile", 4.9, 118_000),
)
CHECKS = (
    ("test_limits_allow_locked_memory", "limits", "passed", ""),
    ("test_provider_is_listed[tcp]", "libfabric", "passed", ""),
    ("test_provider_is_listed[efa]", "libfabric", "skipped", "no efa-device in a container"),
    ("test_version", "openmpi", "passed", ""),
    ("test_training_resumes", "cpu-ddp", "passed", ""),
)


DEBIAN = Flavour(name="debian-12", summary="CPU", system="debian-12", stack="cpu-debian-12")


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def a_plan(*, target: str = "cpu-ddp", layers: Iterable[str] = tuple(row[0] for row in LAYERS)) -> Plan:
    names = tuple(layers)
    kinds = {row[0]: (row[1], row[2]) for row in LAYERS}
    return Plan(
        target=Target(
            name=target,
            summary="Distributed data parallel training on CPU, PyTorch over gloo",
            kind="container",
            components=("libfabric", "openmpi"),
            flavours={DEBIAN.name: DEBIAN},
            workload=target,
        ),
        flavour=DEBIAN,
        system=System(
            name="debian-12",
            summary="Debian 12",
            distribution="debian",
            family="debian",
            release="12",
            arches=("x86_64",),
            python="/usr/bin/python3",
        ),
        stack=Stack(name="cpu-debian-12", summary="The archive's own", pins={"openmpi": "4.1.4-3"}),
        arch="x86_64",
        components=("libfabric", "openmpi"),
        capabilities={"is_container": True},
        versions={"libfabric": "1.17.0-3", "openmpi": "4.1.4-3", "torch": "2.9.1"},
        layers=tuple(
            Layer(
                name=name,
                kind=kinds.get(name, ("components", ()))[0],
                key=key_of(name),
                parent=key_of(names[index - 1]) if index else "",
                inputs={"role libfabric": "1f2e"},
                components=kinds.get(name, ("components", (name,)))[1],
            )
            for index, name in enumerate(names)
        ),
        checks="c0ffee",
    )


def the_layers() -> tuple[LayerResult, ...]:
    return tuple(
        LayerResult(
            name=name,
            key=key_of(name),
            outcome=outcome,
            reason=reason,
            image=f"sha256:{key_of(name)}",
            seconds=seconds,
            size_bytes=size_bytes,
            components=components,
        )
        for name, _, components, outcome, reason, seconds, size_bytes in LAYERS
    )


def a_report(checks: Iterable[tuple[str, str, str, str]] = CHECKS) -> Report:
    return Report(
        reference=DIGEST,
        checks=tuple(
            Check(name=name, component=component, outcome=outcome, seconds=0.25, message=message)
            for name, component, outcome, message in checks
        ),
        seconds=21.3,
    )


def a_receipt(*, plan: Plan | None = None, report: Report | None = None) -> Receipt:
    return Receipt(
        run="20251121-040211-7f3a",
        created="2025-11-21T04:02:11Z",
        commit="a5cd0861e0c2b6a4c8f2f6f6b8b8c9b5d1a0e9f1",
        plan=plan or a_plan(),
        artifact=Artifact(
            kind="container", target="cpu-ddp", reference=DIGEST, key=key_of("workload"), layers=the_layers()
        ),
        report=report or a_report(),
        publications=(
            Publication(
                name=NAME,
                digest=DIGEST,
                tags=("debian-12", "a5cd086"),
                pushed_bytes=24_300_000,
                reused_bytes=301_000_000,
                seconds=2.4,
                run="20251121-040211-7f3a",
                created="2025-11-21T04:02:11Z",
            ),
        ),
        seconds=61.0,
    )


def event(name: str, at_s: float, step: str = "", text: str = "", **fields: Scalar) -> Event:
    return Event(name=name, time_s=START_S + at_s, step=step, text=text, fields=fields)


def a_run() -> list[Event]:
    """Return events of a run: a reused, a built and a failed layer, a task of a step without start event."""
    base, fabric, python = key_of("base"), key_of("fabric"), key_of("python")
    return [
        event("run.start", 0, text="builder build --target cpu-ddp", run="r1"),
        event("step.start", 0.1, "base", "base", target="cpu-ddp", key=base),
        event("step.end", 0.1, "base", "in this engine", outcome="reused", seconds=0, size_bytes=121_000_000),
        event("step.start", 0.2, "fabric", "libfabric, openmpi", target="cpu-ddp", key=fabric),
        event("step.task", 1.5, "fabric", "libfabric : Install the packages"),
        event("step.log", 1.6, "fabric", "\x1b[32mok\x1b[0m: done"),
        event("note", 2, text="packages come from the mirror of this host"),
        event(
            "step.end", 66, "fabric", "changed: role", outcome="built", seconds=65.8, size_bytes=61_400_000
        ),
        event("step.start", 66, "python", "python_env", target="cpu-ddp", key=python),
        event("step.task", 66.5, "elsewhere", "something unannounced"),
        event("step.log", 67, "python", "ERROR: hashes do not match"),
        event("step.end", 68, "python", "pip refused torch", outcome="failed", seconds=2.0),
        event("run.end", 68.5, ok=False, seconds=68.5),
    ]


def a_failure(error: FactoryError | None = None) -> Attempt:
    return attempt_after(
        error
        or BuildError("layer 'python': pip refused torch", hint="builder lock", details="want 1\nhave 2"),
        plan=a_plan(),
        events=a_run(),
        run="r1",
        created="2025-11-21T04:02:11Z",
        commit="",
    )


def test_verdict_is_ready_if_no_check_failed() -> None:
    attempt = attempt_of(a_receipt())
    assert (attempt.verdict, attempt.name) == ("ready", NAME)
    assert [layer.name for layer in attempt.layers_with("built")] == ["fabric", "final", "workload"]


def test_verdict_is_failed_after_a_failed_check_or_an_error() -> None:
    assert attempt_of(a_receipt(report=a_report([("t", "c", "failed", "no")]))).verdict == "failed"
    assert a_failure().verdict == "failed"


def test_failed_attempt_takes_its_layers_from_the_events_of_the_run() -> None:
    layers = {layer.name: layer for layer in a_failure().layers}
    assert {name: layer.outcome for name, layer in layers.items()} == {
        "base": "reused",
        "fabric": "built",
        "python": "failed",
    }
    assert (layers["fabric"].seconds, layers["fabric"].size_bytes) == (65.8, 61_400_000)


def test_unfinished_layer_has_the_outcome_stopped() -> None:
    attempt = attempt_after(
        BuildError("the engine stopped"), plan=a_plan(), events=a_run()[:5], run="r", created="", commit=""
    )
    assert [(layer.name, layer.outcome) for layer in attempt.layers] == [
        ("base", "reused"),
        ("fabric", "stopped"),
    ]
