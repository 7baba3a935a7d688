"""Errors and tables for check reports that did not pass, and the selection of checks."""

import argparse
from pathlib import Path

import pytest

from builder.adapters.container.checker import _selected
from builder.app.context import Context
from builder.cli.check import _by_component, _plan
from builder.marks import STACK_LABEL, TARGET_LABEL
from builder.model import Check, Report
from builder.pipeline import refusal
from tests.support.repository import Repository
from tests.support.repository import flavour as flavour_of
from tests.unit.test_screen_attempt import a_plan


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ((), "target 'cpu-ddp': no check ran"),
        (("skipped", "skipped"), "target 'cpu-ddp': no check ran (2 skipped)"),
        (("passed", "failed", "skipped"), "target 'cpu-ddp': 1 of 3 checks failed: check_1"),
        (("failed",) * 4, "target 'cpu-ddp': 4 of 4 checks failed: check_0, check_1, check_2"),
    ],
)
def test_the_message_says_why_a_check_report_did_not_pass(outcomes: tuple[str, ...], message: str) -> None:
    checks = tuple(
        Check(name=f"check_{number}", component="libfabric", outcome=outcome, seconds=0.1)
        for number, outcome in enumerate(outcomes)
    )
    report = Report(reference="sha256:0123", checks=checks, seconds=1.0)
    assert not report.passed
    assert str(refusal(a_plan(), report)) == message


@pytest.mark.parametrize(
    ("stack", "flavour", "expected"),
    [
        ("plain-1", "", "plain"),
        ("plain-2", "", "other"),
        ("plain-2", "plain", "plain"),
        ("gone-1", "", "plain"),
        (None, "", "plain"),
    ],
)
def test_an_image_is_checked_as_the_flavour_in_its_label(
    repository: Repository, stack: str | None, flavour: str, expected: str
) -> None:
    repository.write("catalog/stacks/plain-2.toml", 'summary = "a later stack"\nbase = "plain-1"\n')
    path = "catalog/targets/hello.toml"
    text = (repository.root / path).read_text(encoding="utf-8")
    repository.write(path, text + flavour_of("tiny-1", "plain-2", "other"))
    labels = {TARGET_LABEL: "hello", **({STACK_LABEL: stack} if stack else {})}
    parsed = argparse.Namespace(target=None, image="hello:1")
    context = Context(repository.root, flavour=flavour)
    assert _plan(context, parsed, {"Config": {"Labels": labels}}).flavour.name == expected


MESSAGE = (
    "ansible/roles/x/tests/test_x.py:5: in test_version\n    assert 1 == 2\nE   assert 1 == 2\nE    +  where"
)


def failed(number: int, message: str = MESSAGE) -> Check:
    name = f"libfabric::check_{number}"
    return Check(name=name, component="libfabric", outcome="failed", seconds=0.1, message=message)


def test_a_build_error_has_the_messages_of_the_first_failed_checks_and_an_executable_hint() -> None:
    report = Report(reference="sha256:0123456789abcdef", checks=tuple(map(failed, range(5))), seconds=1.0)
    error = refusal(a_plan(), report)
    assert error.details.count("in test_version") == 3
    assert error.hint == "builder check sha256:0123456789ab --target cpu-ddp --only libfabric --details"
    assert refusal(a_plan(), report, most=0).details == ""
    of_ami = refusal(a_plan(), Report(reference="ami-0123456789abcdef0", checks=report.checks, seconds=1.0))
    assert of_ami.hint.endswith("then: builder build cpu-ddp")


def test_a_build_error_says_how_to_enter_the_container_of_failed_checks() -> None:
    kept = ("look inside: docker exec -it factory-failed-1 bash", "remove it: docker rm --force it")
    report = Report(reference="sha256:0123456789abcdef", checks=(failed(1),), seconds=1.0, kept=kept)
    assert tuple(refusal(a_plan(), report).hint.splitlines()[1:]) == kept


@pytest.mark.parametrize(
    ("message", "reason"),
    [(MESSAGE, "assert 1 == 2"), ("needs the capability gpu", "needs the capability gpu"), ("", "")],
)
def test_reason_of_a_failed_check_is_the_line_that_pytest_marks(message: str, reason: str) -> None:
    assert failed(1, message).reason == reason


def test_checks_are_summed_up_by_component_with_the_first_reason() -> None:
    def other(name: str, component: str, outcome: str, message: str = "") -> Check:
        return Check(name=name, component=component, outcome=outcome, seconds=0.1, message=message)

    checks = (
        other("nccl::test_version", "nccl", "passed"),
        other("nccl::test_gpu", "nccl", "skipped", "needs the capability gpu"),
        failed(1),
        other("libfabric::test_a", "libfabric", "passed"),
        failed(2, "E   another"),
        other("base::test_b", "base", "passed"),
    )
    assert list(_by_component(Report(reference="x", checks=checks, seconds=1.0))) == [
        ("base", "1", "", "", ""),
        ("libfabric", "1", "2", "", "check_1: assert 1 == 2"),
        ("nccl", "1", "", "1", "test_gpu: needs the capability gpu"),
    ]


def test_checks_of_one_component_or_with_a_word_in_their_name_are_selected() -> None:
    folders = [Path("ansible/roles/nccl/tests"), Path("containers/cpu-ddp/tests")]
    assert _selected(folders, "") == (folders, ())
    assert _selected(folders, "nccl") == (folders[:1], ())
    assert _selected(folders, "cpu_ddp") == (folders[1:], ())
    assert _selected(folders, "environment") == (folders, ("-k", "environment"))
