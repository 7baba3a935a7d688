"""The error message of the pipeline for a check report that did not pass."""

import pytest

from builder.model import Check, Report
from builder.pipeline import refusal
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
