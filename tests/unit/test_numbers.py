"""Times and names of a build: receipt, events and report agree, and do not depend on earlier builds."""

import dataclasses
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from builder.adapters.host.receipts import Receipts
from builder.app import production
from builder.app.context import Context
from builder.app.lanes import table
from builder.app.lanes.lane import Lane, Request, Work
from builder.app.session import build
from builder.events import OnBytes, ignore_bytes
from builder.model import Artifact, Plan, Publication, Receipt
from builder.pipeline import Search, Tools, result
from builder.ports import Ledger
from builder.screen.summary import summary
from tests.support.repository import Repository
from tests.unit.test_session import FakeLane

NAME = "registry/hello@sha256:1"


class PublishingLane(FakeLane):
    """Fake lane with a publisher; `held` lists the image names that the registry already has."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[str] = []
        self.name = NAME

    def search(self, ledger: Ledger, *, publish: bool) -> Search:
        return Search(finder=self, ledger=ledger, publisher=self if publish else None)

    def begin(self, work: Work) -> Tools:
        tools = super().begin(work)
        return dataclasses.replace(tools, publisher=self if work.request.publish else None)

    def holds(self, publication: Publication) -> bool:
        return publication.name in self.held

    def publish(self, plan: Plan, artifact: Artifact, on_bytes: OnBytes = ignore_bytes) -> Publication:
        del plan, artifact
        on_bytes(5, 5)
        self.held.append(self.name)
        return Publication(name=self.name, digest="sha256:1", tags=("a",), pushed_bytes=5, seconds=999.0)


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> PublishingLane:
    opened = PublishingLane()

    def open_fake(_: Context, __: threading.Event) -> Lane:
        return opened

    monkeypatch.setattr(table, "LANES", {"container": open_fake})
    return opened


@pytest.fixture
def context(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    text = (repository.root / "catalog/targets/hello.toml").read_text(encoding="utf-8")
    repository.write("catalog/targets/second.toml", text)
    repository.relock()
    return Context(repository.root)


def built(context: Context, *names: str, publish: bool) -> list[Receipt]:
    return build(context, context.plans(names), Request(publish=publish))


def events_of(context: Context, run: str) -> list[dict[str, Any]]:
    text = (context.workspace.out / "runs" / run / "events.ndjson").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_receipt_events_and_report_have_the_same_times(context: Context, lane: PublishingLane) -> None:
    assert lane.made == set()
    (receipt,) = built(context, "hello", publish=True)
    ends = {
        event["step"]: event["fields"]["seconds"]
        for event in events_of(context, receipt.run)
        if event["name"] == "step.end"
    }
    publication, report = receipt.publications[0], receipt.report
    assert report is not None
    assert (publication.seconds, report.seconds) == (ends["hello/publish"], ends["hello/checks"])
    assert publication.seconds < 999
    assert sum(ends.values()) <= receipt.seconds
    assert (publication.run, publication.created) == (receipt.run, receipt.created)
    assert Receipts(context.workspace, root=context.root).find(receipt.plan) == receipt


def test_a_build_without_publish_prints_the_name_of_the_local_image(
    context: Context, lane: PublishingLane
) -> None:
    (first,) = built(context, "hello", publish=True)
    assert result(first, publish=True) == NAME
    (reused,) = built(context, "hello", publish=False)
    assert (result(reused, publish=False), reused.seconds) == (first.plan.key, 0.0)
    text = summary(reused)
    assert "hello is ready · reused\n" in text
    assert f"{NAME}, published {first.created}" in text
    assert "sent" not in text
    lane.made.clear()
    (again,) = built(context, "hello", publish=False)
    assert again.seconds > 0
    assert again.publications == first.publications
    assert f"  image      {first.plan.key}\n" in summary(again)


def test_printed_image_name_is_that_in_the_requested_registry(context: Context, lane: PublishingLane) -> None:
    built(context, "hello", publish=True)
    lane.name, lane.held = "other/hello@sha256:1", []
    (second,) = built(context, "hello", publish=True)
    assert result(second, publish=True) == "other/hello@sha256:1"
    lane.held = [NAME]
    (third,) = built(context, "hello", publish=True)
    assert [item.name for item in third.publications] == [NAME, "other/hello@sha256:1"]


def test_publications_without_a_run_name_get_the_run_name_of_their_receipt(
    context: Context, lane: PublishingLane
) -> None:
    (receipt,) = built(context, "hello", publish=True)
    path = context.workspace.out / "receipts" / "hello" / f"{receipt.plan.key}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name in ("run", "created"):
        del stored["publications"][0][name]
    path.write_text(json.dumps(stored), encoding="utf-8")
    found = Receipts(context.workspace, root=context.root).find(receipt.plan)
    assert found == receipt
    assert lane.held == [NAME]


def test_a_report_shows_the_steps_of_its_own_target(context: Context, lane: PublishingLane) -> None:
    first, second = built(context, "hello", "second", publish=True)
    assert first.run == second.run
    assert lane.made == {"hello", "second"}
    page = (context.workspace.out / "runs" / first.run / "report-hello.html").read_text(encoding="utf-8")
    assert page.count('class="lane"') == 2, "checks and publish; the lane of this test makes no layers"
    assert "second: " not in page


def test_the_report_of_a_failed_build_names_the_commit(
    context: Context, lane: PublishingLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(production, "commit_of", lambda _: "0123456789abcdef")
    lane.broken = ["hello"]
    with pytest.raises(Exception, match="hello is broken"):
        built(context, "hello", publish=False)
    (page,) = context.workspace.out.glob("runs/*/report-hello.html")
    assert "<code>0123456789ab</code>" in page.read_text(encoding="utf-8")
