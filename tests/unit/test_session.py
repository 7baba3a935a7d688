"""Build session: which lanes (app/lanes: one per kind of target) it opens, and which targets it builds."""

import io
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest

from builder.adapters.engine.client import LAYERS, Engine, Image
from builder.app import production
from builder.app.context import Context
from builder.app.lanes import table
from builder.app.lanes.container import ContainerLane
from builder.app.lanes.lane import Lane, Request, Work
from builder.app.session import build
from builder.cli.main import main
from builder.errors import BuildError, Interrupted, MissingError
from builder.events import Event
from builder.marks import KEY_LABEL
from builder.model import Artifact, Check, LayerResult, Plan, Receipt, Report
from builder.pipeline import Search, Tools
from builder.ports import Ledger
from tests.support.output import envelope_of
from tests.support.repository import AMI, Repository, flavour

TARGETS = ("hello", "second", "third")


class FakeLane(Lane):
    """Fake lane: its finder finds the targets in `made`; its maker fails for the targets in `broken`."""

    def __init__(self, *, made: Sequence[str] = (), broken: Sequence[str] = ()) -> None:
        self.made = set(made)
        self.broken = broken
        self.calls: Counter[str] = Counter()

    def prepare(self, plans: Sequence[Plan], *, publish: bool) -> None:
        self.calls["prepare"] += 1

    def search(self, ledger: Ledger, *, publish: bool) -> Search:
        self.calls["search"] += 1
        return Search(finder=self, ledger=ledger)

    def begin(self, work: Work) -> Tools:
        self.calls["begin"] += 1
        return Tools(finder=self, ledger=work.ledger, maker=self, checker=self, events=work.events)

    def reuse(self, receipt: Receipt) -> None:
        self.calls[f"reuse {receipt.plan.target.name}"] += 1

    def end(self) -> None:
        self.calls["end"] += 1

    def base_source(self, plan: Plan) -> Sequence[tuple[str, str]]:
        return ()

    def next_command(self, receipt: Receipt) -> str:
        return ""

    def find(self, plan: Plan) -> Artifact | None:
        self.calls[f"find {plan.target.name}"] += 1
        return self._artifact(plan) if plan.target.name in self.made else None

    def make(self, plan: Plan) -> Artifact:
        self.calls[f"make {plan.target.name}"] += 1
        if plan.target.name in self.broken:
            raise BuildError(f"{plan.target.name} is broken", details=f"the cause in {plan.target.name}")
        self.made.add(plan.target.name)
        return self._artifact(plan)

    def check(self, plan: Plan, artifact: Artifact) -> Report:
        passed = Check(name="check", component="base", outcome="passed", seconds=0.0)
        return Report(reference=artifact.reference, checks=(passed,), seconds=0.0)

    def _artifact(self, plan: Plan) -> Artifact:
        layers = tuple(
            LayerResult(name=layer.name, key=layer.key, outcome="reused", reason="known", image=layer.key)
            for layer in plan.layers
        )
        return Artifact(
            kind="container", target=plan.target.name, reference=plan.key, key=plan.key, layers=layers
        )


@pytest.fixture
def context(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    text = (repository.root / "catalog/targets/hello.toml").read_text(encoding="utf-8")
    for name in TARGETS[1:]:
        repository.write(f"catalog/targets/{name}.toml", text)
    return Context(repository.root)


def run(
    context: Context, lane: FakeLane, monkeypatch: pytest.MonkeyPatch, *, as_json: bool = False
) -> list[str]:
    opened: list[str] = []

    def open_fake(_: Context, cancelled: threading.Event) -> Lane:
        opened.append("container")
        return lane

    monkeypatch.setattr(table, "LANES", {"container": open_fake})
    receipts = build(context, context.plans(TARGETS), Request(jobs=1, as_json=as_json))
    assert opened == ["container"]
    return [receipt.plan.target.name for receipt in receipts]


def test_opens_a_lane_once_and_builds_every_target_once(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = FakeLane()
    assert run(context, lane, monkeypatch) == list(TARGETS)
    assert lane.calls == {
        "prepare": 1,
        "search": 1,
        "begin": 1,
        "end": 1,
        **{f"{verb} {name}": 1 for verb in ("make",) for name in TARGETS},
    }


def test_builds_only_the_missing_target(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    run(context, FakeLane(), monkeypatch)
    lane = FakeLane(made=["hello", "third"])
    assert run(context, lane, monkeypatch) == list(TARGETS)
    assert [call for call in lane.calls if call.startswith("make")] == ["make second"]


def test_starts_no_run_if_no_target_is_missing(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    run(context, FakeLane(), monkeypatch)
    runs = sorted((context.workspace.out / "runs").iterdir())
    lane = FakeLane(made=TARGETS)
    assert run(context, lane, monkeypatch) == list(TARGETS)
    assert "begin" not in lane.calls
    assert all(lane.calls[f"reuse {name}"] == 1 for name in TARGETS)
    assert sorted((context.workspace.out / "runs").iterdir()) == runs


@pytest.mark.parametrize(("own_tags", "is_tagged_again"), [([], True), (["hello:plain-1"], False)])
def test_a_reused_image_gets_its_missing_tag_back_with_one_list_of_images(
    context: Context, monkeypatch: pytest.MonkeyPatch, own_tags: list[str], is_tagged_again: bool
) -> None:
    run(context, FakeLane(), monkeypatch)
    plan = context.plan("hello")
    layers = [
        Image(
            id=layer.key,
            size_bytes=1,
            tags=(f"{LAYERS}:{layer.key}", *(own_tags if layer.key == plan.key else ())),
            labels={KEY_LABEL: layer.key},
            created=1,
        )
        for layer in plan.layers
    ]
    other = Image(id="sha256:other", size_bytes=1, tags=("hello:plain-1",), labels={}, created=1)
    calls: list[tuple[str, ...]] = []

    def list_images(self: Engine, wanted: Mapping[str, Sequence[str]]) -> list[Image]:
        calls.append(("list", *wanted["reference"]))
        return [*layers, *([] if own_tags else [other])]

    monkeypatch.setattr(Engine, "_list", list_images)
    monkeypatch.setattr(Engine, "tag", lambda self, *names: calls.append(("tag", *names)))
    monkeypatch.setattr(table, "LANES", {"container": ContainerLane})
    assert len(build(context, [plan], Request())) == 1
    tagged = [("tag", plan.key, "hello", "plain-1")] if is_tagged_again else []
    assert calls == [("list", LAYERS, "hello:plain-1"), *tagged]


def test_the_events_of_a_build_include_reused_targets(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(context, FakeLane(), monkeypatch)
    capsys.readouterr()
    run(context, FakeLane(made=["hello", "third"]), monkeypatch, as_json=True)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    reused = [event["step"] for event in events if event["fields"].get("outcome") == "reused"]
    layers = [step for step in reused if not step.endswith("/checks")]
    assert {step.partition("/")[0] for step in layers} == {"hello", "third"}
    assert (events[0]["name"], events[-1]["name"]) == ("run.start", "run.end")
    assert events[0]["fields"]["targets"].split(",") == ["hello", "third", "second"]
    assert events[-1]["fields"]["ok"] is True


def test_a_failing_target_does_not_stop_the_others(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = FakeLane(broken=["second"])
    with pytest.raises(BuildError, match="second is broken") as caught:
        run(context, lane, monkeypatch, as_json=True)
    assert lane.made == {"hello", "third"}
    assert lane.calls["end"] == 1
    assert "log.txt" in caught.value.hint
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (last["name"], last["fields"]["ok"]) == ("run.end", False)
    (folder,) = (context.workspace.out / "runs").iterdir()
    assert sorted(path.name for path in folder.glob("report-*.html")) == [
        f"report-{name}.html" for name in TARGETS
    ]


def test_results_of_the_other_targets_are_printed_if_one_fails(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, is_json in ((["--json"], True), ([], False)):
        lane = FakeLane(broken=["second"])
        monkeypatch.setattr(table, "LANES", {"container": partial(_return, lane)})
        capsys.readouterr()
        assert main(["build", *TARGETS, *words, "--root", str(context.root)]) == 4
        printed = capsys.readouterr()
        assert ("hello is ready" in printed.err, "third is ready" in printed.err) == (True, True)
        if is_json:
            last = envelope_of(printed.out.splitlines()[-1])
            assert last["error"]["message"] == "second is broken"
            assert [result["target"] for result in last["result"]] == ["hello", "third"]
        else:
            keys = {plan.target.name: plan.key for plan in context.plans(TARGETS)}
            assert printed.out.splitlines() == [keys["hello"], keys["third"]]


def test_error_of_every_failed_target_is_printed_once_and_the_first_error_last(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lane = FakeLane(broken=["hello", "third"])
    monkeypatch.setattr(table, "LANES", {"container": partial(_return, lane)})
    assert main(["build", *TARGETS, "--root", str(context.root)]) == 4
    lines = [line.strip() for line in capsys.readouterr().err.splitlines()]
    explained = [line for line in lines if line.startswith(("error: ", "the cause in"))]
    assert explained == [
        *("error: third is broken", "the cause in third"),
        *("error: hello is broken", "the cause in hello"),
    ]


class Pipe(io.StringIO):
    """Text stream with a reader that closes it after `lines` lines."""

    def __init__(self, *, lines: int) -> None:
        super().__init__()
        self.left = lines

    def write(self, text: str) -> int:
        if self.left == 0:
            raise BrokenPipeError
        self.left -= 1
        return super().write(text)


class WaitingLane(FakeLane):
    """Fake lane whose maker waits until the run is cancelled."""

    def begin(self, work: Work) -> Tools:
        self.work = work
        return super().begin(work)

    def make(self, plan: Plan) -> Artifact:
        self.work.events.emit("step.log", step=f"{plan.target.name}/base", text="working")
        self.calls["cancelled" if self.work.run.cancelled.wait(30) else "not cancelled"] += 1
        raise Interrupted("interrupted")


@pytest.mark.parametrize("lines", [0, 1, 2])
def test_a_closed_stdout_interrupts_a_build_and_cleans_up(
    context: Context, monkeypatch: pytest.MonkeyPatch, lines: int
) -> None:
    """The main thread writes the first line to the closed pipe; a worker thread writes later lines."""
    lane = WaitingLane()
    monkeypatch.setattr("sys.stdout", Pipe(lines=lines))
    with pytest.raises(Interrupted, match="SIGHUP") as caught:
        run(context, lane, monkeypatch, as_json=True)
    assert caught.value.exit_code == 130
    assert lane.calls["not cancelled"] == 0
    assert lane.calls["end"] == lane.calls["begin"] == (1 if lines else 0)
    assert list(context.workspace.scratch.iterdir()) == []


def test_a_closed_stdout_interrupts_a_build_with_nothing_to_do(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(context, FakeLane(), monkeypatch)
    monkeypatch.setattr("sys.stdout", Pipe(lines=1))
    with pytest.raises(Interrupted):
        run(context, FakeLane(made=TARGETS), monkeypatch, as_json=True)


class BusyLane(WaitingLane):
    """Fake lane whose first target emits an event while the other targets wait until the run is cancelled."""

    def make(self, plan: Plan) -> Artifact:
        if plan.target.name == "hello":
            self.work.events.emit("step.start", step="hello/base", text="base", target="hello")
            return self._artifact(plan)
        return super().make(plan)


def test_an_error_of_the_screen_cancels_all_targets_and_is_raised(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error occurs in the thread of a target; the log still records the end of the run."""

    def screen(event: Event) -> None:
        if event.name == "step.start":
            raise ZeroDivisionError

    monkeypatch.setattr(production, "_open_screen", lambda **_: nullcontext(screen))
    lane = BusyLane()
    with pytest.raises(ZeroDivisionError):
        run(context, lane, monkeypatch)
    assert (lane.calls["cancelled"], lane.calls["not cancelled"], lane.calls["end"]) == (2, 0, 1)
    assert list(context.workspace.scratch.iterdir()) == []
    (log,) = (context.workspace.out / "runs").glob("*/log.txt")
    assert "run.end" in log.read_text(encoding="utf-8").splitlines()[-1]


class FailingLane(FakeLane):
    def begin(self, work: Work) -> Tools:
        raise MissingError("no program 'packer' here")


def test_does_not_end_a_lane_that_failed_to_begin(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of `end` after a failed `begin` would replace the error of `begin` by another error."""
    lane = FailingLane()
    with pytest.raises(MissingError, match="packer"):
        run(context, lane, monkeypatch)
    assert "end" not in lane.calls


def test_opens_only_the_lanes_of_missing_targets(
    context: Context, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = 'summary = "a machine"\nkind = "ami"\ncomponents = ["fabric"]\n'
    repository.write("catalog/targets/third.toml", machine + AMI + flavour("tiny-1", "plain-1"))
    lanes = {"container": FakeLane(), "ami": FakeLane()}
    monkeypatch.setattr(table, "LANES", {kind: partial(_return, lane) for kind, lane in lanes.items()})
    mixed = Context(context.root)
    build(mixed, mixed.plans(TARGETS), Request())
    assert (lanes["container"].calls["begin"], lanes["ami"].calls["begin"]) == (1, 1)
    lanes["container"].made.remove("second")
    build(mixed, mixed.plans(TARGETS), Request())
    assert (lanes["container"].calls["begin"], lanes["ami"].calls["begin"]) == (2, 1)
    assert lanes["ami"].calls["end"] == 1


def _return(lane: Lane, *_: object) -> Lane:
    return lane
