"""Commands of a new user at a terminal: overviews, wrong inputs, a new target, component and stack.

Only `make boundaries` builds the new target.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.rehearsal.registry.server import LocalRegistry
from tests.support.factory import BOUND_S, Factory
from tests.support.terminal import Screen, run

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Terminal:
    """A terminal of 100 columns that runs commands in a copy of this checkout."""

    root: Path
    home: Path

    def call(self, command: str, *, code: int = 0) -> str:
        """Run a command line in bash; return what the terminal shows at the end."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {"BUILDER_HOME": str(self.home), "BUILDER_ROOT": str(self.root), "TERM": "xterm", "PATH": path}
        inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        ended, output = run(
            command, folder=self.root, environment=inherited | own, columns=100, bound_s=3 * BOUND_S
        )
        screen = Screen()
        screen.feed(output)
        assert ended == code, f"{command}: exit code {ended}\n{screen.text}"
        assert "Traceback" not in screen.text
        return screen.text


@pytest.fixture(scope="module")
def clone(root: Path, home: Path, tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    folder = tmp_path_factory.mktemp("new-user") / "image-factory"
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, timeout=60, check=True
    ).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)
    return Terminal(folder, home)


def test_overview_commands_print_targets_flavours_examples_and_runs(clone: Terminal) -> None:
    assert "Start with: builder list" in clone.call("builder")
    assert re.search(r"^cpu-ddp +container +yes ", clone.call("builder list"), re.MULTILINE)
    assert "flavour" in clone.call("builder show cpu-ddp")
    assert "examples:" in clone.call("builder build --help")
    assert ".SH COMMANDS" in clone.call("builder help --man | cat")
    assert "no run yet" in clone.call("builder logs")


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("builder bild cpu-ddp", 2, "did you mean 'build'?"),
        ("builder build cpu-dpp", 2, "did you mean 'cpu-ddp'?"),
        ("builder build cpu-ddp --rebuild workloda --dry-run", 2, "did you mean 'workload'?"),
        ("builder build --all cpu-ddp", 2, "--all is not allowed with named targets"),
        ("builder check nowhere:1", 2, "no image 'nowhere:1' in the engine"),
        ("builder run ami-cpu", 2, "has no [launch] section"),
        ("builder logs 99", 2, "no run '99'"),
        ("builder lock --update nope", 2, "no such name"),
        ("BUILDER_SITE=mars builder plan cpu-ddp", 2, "no site 'mars'"),
        ("BUILDER_SITE_FILE=/nowhere.toml builder config", 2, "/nowhere.toml"),
        ("builder list > /dev/full", 3, "No space left on device"),
    ],
)
@pytest.mark.engine
def test_wrong_inputs_end_with_a_hint(clone: Terminal, command: str, code: int, message: str) -> None:
    text = clone.call(command, code=code)
    assert message in text
    assert "hint: " in text or "/dev/full" in command


@pytest.mark.engine
def test_output_of_a_repeated_build_has_a_next_command_that_runs(built: Factory) -> None:
    terminal = Terminal(built.repository.root, built.home)
    shown = terminal.call("builder build hello")
    assert "hello is ready" in shown
    next_command = re.search(r"^  next +(.*)$", shown, re.MULTILINE)
    assert next_command
    terminal.call(next_command[1])
    assert "hello" in terminal.call("builder logs")
    # Other pytest workers change the tag of the target, so the test uses the tag of the key.
    image = f"factory-layers:{built.repository.keys()['workload']}"
    checked = terminal.call(f"builder check {image} --only base")
    assert re.search(r"^base +1 *$", checked, re.MULTILINE)


@pytest.fixture(scope="module")
def own(clone: Terminal) -> Terminal:
    """Checkout with the target `own`, whose flavour `mine` uses a new stack and a new component."""
    stack = clone.call("builder init stack cpu-debian-12-own --from cpu-debian-12")
    assert "next: builder stack check" in stack
    checked = clone.call("builder stack check cpu-debian-12-own")
    # Debian's Slurm lacks the fixes of Slurm 25.05.9.
    assert "cpu-debian-12-own: 1 warning\n\n○ warning HPC-08\n" in checked
    assert "next: builder role own_tool --twice" in clone.call("builder init component own_tool")
    assert "next: builder build own" in clone.call("builder init target own")
    target = clone.root / "catalog/targets/own.toml"
    flavour = '\n[flavours.mine]\nsummary = "own"\nsystem = "debian-12"\nstack = "cpu-debian-12-own"\n'
    text = target.read_text(encoding="utf-8") + flavour + 'with = ["own_tool"]\n'
    target.write_text(text, encoding="utf-8")
    return clone


@pytest.mark.engine
def test_plan_of_a_new_target_equals_the_dry_run_of_its_build(own: Terminal) -> None:
    plan = own.call("builder plan own --flavour mine")
    assert "own (mine: debian-12, cpu-debian-12-own" in plan
    assert "own_tool" in plan
    assert own.call("builder build own --flavour mine --dry-run") == plan


@pytest.mark.engine
@pytest.mark.boundaries
def test_a_new_target_is_built_published_and_run(own: Terminal, tmp_path: Path) -> None:
    try:
        with LocalRegistry(tmp_path / "registry") as registry:
            (own.root / "site.toml").write_text(f'[registry]\npush = "{registry.host}/own"\n')
            built = own.call("builder build own --flavour mine --publish")
        (own.root / "site.toml").unlink()
        assert "own is ready" in built
        assert f"{registry.host}/own/own@sha256:" in built
        next_command = re.search(r"^  next +(.*)$", built, re.MULTILINE)
        assert next_command
        assert re.search(r"^3\.\d+\.\d+$", own.call(next_command[1]), re.MULTILINE)
        assert re.search(r"^\S+-own-\S+ +build +own +done", own.call("builder logs"), re.MULTILINE)
        checked = own.call("builder check own:cpu-debian-12-own")
        assert re.search(r"^own_tool +1 *$", checked, re.MULTILINE), checked
        break_the_own_target(own)
    finally:
        own.call("builder clean --all --yes")


def break_the_own_target(own: Terminal) -> None:
    """Break a check, then the Dockerfile, and run the commands that each error names."""
    check = own.root / "ansible/roles/own_tool/tests/test_own_tool.py"
    dockerfile = own.root / "containers/own/Dockerfile"
    for path, old, new, code in (
        (check, "", "\n\ndef test_fails(host):\n    assert host.file('/nowhere').exists\n", 5),
        (dockerfile, "USER", "RUN echo 'not this way' && false\nUSER", 4),
    ):
        good = path.read_text(encoding="utf-8")
        path.write_text(good.replace(old, new, 1) if old else good + new, encoding="utf-8")
        failed = own.call("builder build own --flavour mine --keep-failed", code=code)
        enter = re.search(r"look inside: docker exec -it (\S+) bash", failed)
        remove = re.search(r"remove it: (docker rm --force \S+)", failed)
        assert enter, failed
        assert remove, failed
        assert "opt" in own.call(f"docker exec -it {enter[1]} bash -c 'ls /'")
        if again := re.search(r"hint: (builder check \S+ --target own --only own_tool --details)", failed):
            assert "/nowhere" in own.call(again[1], code=5)
        assert bool(again) == (path == check)
        own.call(remove[1])
        path.write_text(good, encoding="utf-8")
    assert len(re.findall(r"^ +not this way\s*$", failed, re.MULTILINE)) == 1, "the output is shown once"
