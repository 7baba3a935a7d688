"""Commands that the builder prints as a hint or next step: each is run as printed, after its message."""

import shlex
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from builder import lock, sources
from builder.adapters.container.finder import EngineFinder
from builder.adapters.engine.client import Engine
from builder.adapters.upstream.mirror import Mirror
from builder.app import locking
from builder.app.context import Context
from builder.app.lanes import table
from builder.app.lanes.ami import AmiLane
from builder.app.lanes.lane import Lane, Request, require_layers
from builder.cli import clean
from builder.cli.main import main
from builder.lock import Answer, Entry, Want
from builder.model import Artifact, Check, Plan, Report
from tests.support.hints import AS_WRITTEN, HUMAN, IN_TEXT, SITUATIONS, TESTED, Situation
from tests.support.output import result_of
from tests.support.printed import FILLED, MENTION, commands_in, commands_in_source
from tests.support.repository import AMI, Repository, flavour
from tests.unit.test_clean import FakeEngine
from tests.unit.test_numbers import PublishingLane

# Words of a printed command that the user replaces, with a value for these tests.
_REPLACED = {"TARGET": "hello", "NAME": "hello", "FOLDER": "docs", "TYPE": "m7i.large", "COMPONENT": "base"}
_LAUNCH = '[launch]\nrunner = "none"\ncommand = ["python", "/opt/workload/main.py"]\n'


class _Lane(PublishingLane):
    """Lane without an engine; the first check of a target with the summary `broken` fails."""

    was_checked = False

    def require_supported(self, plans: Sequence[Plan], request: Request) -> None:
        require_layers(plans, request.rebuild)

    def check(self, plan: Plan, artifact: Artifact) -> Report:
        report = super().check(plan, artifact)
        if plan.target.summary != "broken" or self.was_checked:
            return report
        self.was_checked = True
        failed = Check(name="check", component="base", outcome="failed", seconds=0.0)
        return Report(reference=artifact.reference, checks=(failed,), seconds=0.0)


class _Sources:
    """Source of all downloads: packages are those of the files, everything else is as it is locked."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def resolve(self, want: Want) -> Answer:
        if want.kind == "requirements":
            digest = sources.file_sha256(self._root / want.subject)
            return Answer(entry=Entry(values={"sha256": digest, "packages": 1}, verified=True))
        return Answer(entry=lock.read(self._root).entries[want])

    def confirm(self, want: Want, entry: Entry) -> Answer:
        del entry
        return self.resolve(want)


Call = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def call(
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Call:
    """Function that runs a command line in a repository with targets of each kind and one earlier build."""
    hello = (repository.root / "catalog/targets/hello.toml").read_text(encoding="utf-8")
    machine = 'summary = "a machine"\nkind = "ami"\ncomponents = ["base"]\n'
    before, _, flavours = hello.partition("[flavours")
    repository.write("catalog/targets/helium.toml", hello)
    repository.write("catalog/targets/trainer.toml", f"{before}{_LAUNCH}[flavours{flavours}")
    repository.write("catalog/targets/machine.toml", machine + AMI + flavour("tiny-1", "plain-1"))
    repository.write("docs/notes.xyz", "no file that a rule covers\n")
    repository.write("bad/Dockerfile", "FROM debian:latest\nRUN cd /tmp && apt-get install gcc\n")
    repository.relock()
    lane = _Lane()

    def open_fake(_: Context, __: threading.Event) -> Lane:
        return lane

    monkeypatch.setattr(table, "LANES", {"container": open_fake, "ami": AmiLane})
    monkeypatch.setattr(EngineFinder, "images", {})
    monkeypatch.setattr(Engine, "inspect_image", lambda *_: None)
    monkeypatch.setattr(clean, "Engine", lambda: FakeEngine({}, {}))
    monkeypatch.setattr(locking, "SourceResolver", lambda **_: _Sources(repository.root))
    monkeypatch.setattr("builder.app.locking.mirror.connection", lambda _: Mirror())
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BUILDER_ROOT", str(repository.root))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("BUILDER_SITE", raising=False)
    monkeypatch.chdir(repository.root)

    def run(line: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(shlex.split(line)[1:])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    assert run("builder build hello")[0] == 0
    return run


def is_of(hint: str, command: str) -> bool:
    """True if a printed command is the hint of the source, in which FILLED is any word."""
    words, given = hint.split(), shlex.split(command)
    return all(
        a in (FILLED, b) or (FILLED in a and b.startswith(a.partition(FILLED)[0]))
        for a, b in zip(words, given, strict=False)
    ) and len(words) <= len(given)


@pytest.mark.parametrize(("hint", "situation"), SITUATIONS.items(), ids=lambda value: str(value)[:40])
def test_a_printed_command_runs_in_the_situation_of_its_message(
    call: Call, repository: Repository, hint: str, situation: Situation
) -> None:
    for name, old, new in situation.edits:
        repository.replace(name, old, new)
    (run,) = result_of(call("builder logs --json")[1])
    code, out, err = call(situation.typed.replace("RUN", run["name"]))
    text = err if code else out + err
    assert code == situation.code, text
    found = [command for command in commands_in(f"hint {text}") if is_of(hint, command)]
    assert found, f"`{situation.typed}` does not print `{hint}`:\n{text}"
    replaced = {**_REPLACED, **situation.replaced}
    words = [replaced.get(word, word) for word in shlex.split(found[0])]
    code, out, err = call(shlex.join(words))
    assert code == situation.hint_code, f"{shlex.join(words)}: exit code {code}\n{err}"
    assert "Traceback" not in out + err


@pytest.mark.parametrize(("hint", "expected"), AS_WRITTEN.items())
def test_a_command_runs_as_written(call: Call, hint: str, expected: int) -> None:
    code, out, err = call(shlex.join(_REPLACED.get(word, word) for word in shlex.split(hint)))
    assert code == expected, err
    assert "Traceback" not in out + err


def test_commands_with_help_print_help(root: Path, call: Call) -> None:
    found = {command for _, command in commands_in_source(root) if command.endswith(" --help")}
    assert len(found) > 10
    for command in found:
        code, out, _ = call(command.replace(f" {FILLED} ", " hello "))
        assert (code, "example" in out) == (0, True), command


def test_every_printed_command_is_in_exactly_one_class(root: Path) -> None:
    found = {
        command
        for place, command in commands_in_source(root)
        if not command.endswith((" --help", MENTION)) and "/examples.py" not in place
    }
    classes = [set(SITUATIONS), set(AS_WRITTEN), set(TESTED), set(HUMAN), set(IN_TEXT)]
    known = set().union(*classes)
    assert sorted(found - known) == [], "add these to a class in tests/support/hints.py"
    assert sorted(known - found) == [], "remove these, the source has them no more"
    assert sum(map(len, classes)) == len(known)


def test_every_test_that_a_class_names_exists(root: Path) -> None:
    for command, test in TESTED.items():
        path, _, name = test.partition("::")
        assert f"def {name}(" in (root / path).read_text(encoding="utf-8"), command
