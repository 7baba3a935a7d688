"""Build summaries, tables and errors at several widths."""

import dataclasses
import re
from pathlib import Path

import pytest

from builder.errors import CatalogError, FactoryError
from builder.screen.summary import error, summary
from builder.screen.text import Look, cells
from tests.unit.test_screen_attempt import DIGEST, NAME, a_failure, a_receipt, a_report

READY = f"""
✔ cpu-ddp is ready · 1 min 01 s

  image      {NAME}
  layers     3 built, 1 pulled, 2 reused · 939 MB
             ✔ built   fabric       38.4 s    61 MB  role libfabric
             ✔ pulled  python       12.7 s   742 MB  from the cache
             ✔ built   final         3.1 s    42 kB  parent changed
             ✔ built   workload      4.9 s   118 kB  changed: Dockerfile
             ● reused  base, system
  checks     4 passed, 1 skipped · 21.3 s
             ○ 1 skipped: no efa-device in a container
  published  24 MB sent, 301 MB already there · 2.4 s · tags: debian-12, a5cd086
  report     out/report.html
  next       docker run --rm cpu-ddp
"""

FAILED = """
✘ cpu-ddp failed · 1 min 08 s

  layers     1 built, 1 reused, 1 failed, 3 not reached · 182 MB
             ✔ built   fabric 1 min 06 s    61 MB  changed: role
             ✘ failed  python      2.0 s           pip refused torch
             ● reused  base
  checks     not run
"""


def test_summary_of_a_successful_build() -> None:
    text = summary(a_receipt(), report_path=Path("out/report.html"), next_command="docker run --rm cpu-ddp")
    assert text == READY


def test_summary_of_a_failed_build() -> None:
    assert summary(a_failure()) == FAILED


def test_summary_of_a_reused_target_names_its_earlier_publication() -> None:
    text = summary(dataclasses.replace(a_receipt(), seconds=0.0))
    assert "✔ cpu-ddp is ready · reused\n" in text
    assert f"  image      {DIGEST}\n" in text
    assert f"  before     {NAME}, published 2025-11-21T04:02:11Z\n" in text
    assert "sent" not in text


def test_summary_names_failed_checks() -> None:
    report = a_report([("test_version", "openmpi", "failed", "E       AssertionError: 4.1.5\nmore")])
    text = summary(a_receipt(report=report))
    assert "✘ cpu-ddp failed" in text
    assert "✘ openmpi: test_version: AssertionError: 4.1.5\n" in text


def test_coloured_summary_has_the_same_text() -> None:
    plain = summary(a_receipt())
    coloured = summary(a_receipt(), look=Look(colour=True))
    assert "\x1b[32m✔ cpu-ddp is ready\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split()
    assert "\x1b" not in plain


def test_summary_is_ascii_for_ascii_streams() -> None:
    assert summary(a_receipt(), look=Look(unicode=False)).isascii()


@pytest.mark.parametrize("width", [70, 80, 200])
def test_summary_fits_its_width(width: int) -> None:
    for line in summary(a_failure(), look=Look(width=width)).splitlines():
        assert cells(line) <= width


def test_error_shows_message_details_and_hint() -> None:
    assert error(FactoryError("the build failed")) == "error: the build failed"
    assert error(CatalogError(["a.toml: x", "b.toml: \x1b[31my"], hint="run builder list")) == (
        "error: catalog: 2 problems\n  a.toml: x\n  b.toml: y\nhint: run builder list"
    )


def test_error_shortens_a_long_value_but_no_path() -> None:
    path = "/a" * 200
    shown = error(FactoryError(f"no target '{'x' * 5000}' (available: a) in {path}", hint="y" * 5000))
    message, hint = shown.splitlines()
    assert message.startswith("error: no target 'xxx")
    assert message.endswith(f"xxx' (available: a) in {path}")
    assert max(len(message), len(hint)) < 700


def test_ami_counts_as_a_single_layer() -> None:
    receipt = a_receipt()
    target = dataclasses.replace(receipt.plan.target, kind="ami")
    plan = dataclasses.replace(receipt.plan, target=target)
    image = dataclasses.replace(receipt.artifact.layers[-1], name="image", key=plan.key, outcome="built")
    artifact = dataclasses.replace(receipt.artifact, kind="ami", layers=(image,))
    text = summary(dataclasses.replace(receipt, plan=plan, artifact=artifact))
    assert "not reached" not in text
    assert "layers     1 built" in text
