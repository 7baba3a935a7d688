"""--jobs limits the number of AMIs that are built at a time."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from builder.adapters.ami.checker import MachineChecker
from builder.adapters.ami.maker import AmiMaker
from builder.adapters.ami.packer import Packer
from builder.adapters.host.receipts import Receipts
from builder.adapters.upstream.mirror import Mirror
from builder.app.context import Context
from builder.app.lanes.ami import AmiLane
from builder.app.lanes.lane import Request, Work
from builder.errors import BuildError
from builder.events import Stream
from tests.support.rehearsal import ROOT
from tests.support.rehearsed_account import AmiAccount

# Fake Packer that fails, and records if another one ran at the same time.
ALONE = """#!/bin/sh
if mkdir {folder}/busy; then result=alone; else result=not; fi
sleep 0.5
echo $result >> {folder}/builds
[ $result = not ] || rmdir {folder}/busy
exit 1
"""


def test_jobs_option_limits_the_number_of_concurrent_ami_builds(
    ami_account: AmiAccount, packer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packer.write_text(ALONE.format(folder=tmp_path))
    monkeypatch.setattr(Packer, "needs_plugins", lambda _: False)
    context, cancelled = Context(ROOT, site_name="aws"), threading.Event()
    source = ami_account.aws.describe(ami_account.aws.debian())
    with ami_account.run() as run:
        work = Work(
            run=run,
            events=Stream(),
            ledger=Receipts(run.workspace, root=ROOT, run=run),
            mirror=lambda _: Mirror(),
            request=Request(jobs=1),
        )
        tools = AmiLane(context, cancelled).begin(work)
        assert isinstance(tools.maker, AmiMaker)
        assert isinstance(tools.checker, MachineChecker)
        assert tools.maker.working is tools.checker.working
        maker = dataclasses.replace(tools.maker, account=ami_account.account, source=lambda _: source)
        plans = [context.plan(name) for name in ("ami-cpu", "ami-batch-gpu", "ami-gpu")]
        with ThreadPoolExecutor(3) as pool:
            errors = [future.exception() for future in [pool.submit(maker.make, plan) for plan in plans]]
    assert [type(error) for error in errors] == [BuildError] * 3
    assert (tmp_path / "builds").read_text() == "alone\n" * 3
