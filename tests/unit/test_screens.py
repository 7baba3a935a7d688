"""Golden files of command output at terminals of 80 and 200 columns, at a dumb terminal and in a pipe.

To update the golden files, run WRITE_SCREENS=1 pytest tests/unit/test_screens.py and review the diff.
"""

import io
import os
import re
import shlex
from pathlib import Path

import pytest

from builder.adapters.container.finder import EngineFinder
from builder.cli.main import main
from builder.screen.summary import summary
from builder.screen.text import look
from tests.support.repository import AMI, Repository, flavour
from tests.unit.test_screen_attempt import a_failure, a_receipt

GOLDEN = Path(__file__).parents[1] / "golden" / "screens"
COMMANDS = (
    "list",
    "show hello",
    "plan hello",
    "stack list",
    "stack show plain-1",
    "stack diff plain-1 plain-2",
    "stack check plain-2",
    "registry status",
    "show helo",
    "build hello",
    "ami share ami-0123456789abcdef0 --account 12",
)
# Name of a golden file → True for a terminal, and the environment variables.
SCREENS = {
    "80": (True, {"COLUMNS": "80", "TERM": "xterm"}),
    "200": (True, {"COLUMNS": "200", "TERM": "xterm"}),
    "dumb": (True, {"COLUMNS": "80", "TERM": "dumb"}),
    "piped": (False, {"COLUMNS": "80", "TERM": "xterm"}),
}
RULES = """
subject = "Fabrics"
date = "2026-01-01"
[[rule]]
id = "FAB-01"
severity = "error"
side = "image"
when = ["fabric >= 2.0"]
why = "The library of this release cannot open its device, and every job falls back to TCP without a message."
fix = "Take fabric 1.2."
source = ["book"]
fires = [{ fabric = "2.0" }]
holds = [{ fabric = "1.2" }]
"""


class Stream(io.StringIO):
    encoding = "utf-8"

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def site(repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Repository:
    """A repository with long names and texts, whose target `hello` is not locked."""
    repository.write("catalog/sources.toml", 'book = "A book"\n')
    repository.write("catalog/rules/fabric.toml", RULES)
    repository.write("catalog/versions/fabric.toml", 'summary = "The fabric"\nside = "image"\n')
    repository.write("catalog/stacks/plain-2.toml", 'summary = "a later stack"\n[pins]\nfabric = "2.0-1"\n')
    text = (repository.root / "catalog/systems/tiny-1.toml").read_text(encoding="utf-8").partition("[boot")[0]
    names = ("vendor-24.04-with-drivers", "vendor-22.04-with-drivers", "vendor-20.04")
    for name in names:
        vendor = '[ami]\nuser = "a"\nregions = ["us-east-1"]\nparameter = "/images/{arch}"\n'
        repository.write(f"catalog/systems/{name}.toml", text + vendor)
    flavours = "".join(flavour(name, "plain-1", name) for name in names)
    repository.write(
        "catalog/targets/ami-training-node.toml",
        'summary = "A machine for training: the fabric, its tools, and more words than a terminal is wide"\n'
        f'kind = "ami"\ncomponents = ["fabric"]\n{AMI}{flavours}',
    )
    repository.relock()
    repository.replace("containers/hello/requirements.lock", "greet==1.0", "greet==1.1")
    monkeypatch.setattr(EngineFinder, "images", {})
    monkeypatch.setenv("BUILDER_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith(("AWS_", "PIP_")) or "proxy" in name.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(repository.root)
    return repository


@pytest.mark.parametrize("name", SCREENS)
def test_command_output_equals_the_golden_file(
    site: Repository, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    terminal, environment = SCREENS[name]
    stream = Stream(terminal=terminal)
    for variable, value in {**environment, "NO_COLOR": "1"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", stream)
    for command in COMMANDS:
        stream.write(f"$ builder {command}\n")
        stream.write(f"[exit code {main(shlex.split(command))}]\n\n")
    for outcome in (a_receipt(), a_failure()):
        text = summary(outcome, look=look(stream, os.environ), report_path=Path("out/report.html"))
        stream.write(f"{text}\n")
    # Replace keys and digests, because they change with every input of a layer.
    text = re.sub(r"\b[0-9a-f]{12}(?:[0-9a-f]{4})?\b", lambda key: "0" * len(key[0]), stream.getvalue())
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("WRITE_SCREENS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SCREENS)
def test_golden_screens_cut_no_name(name: str) -> None:
    text = (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
    for whole in ("ami-training-node", "vendor-24.04-with-drivers", "plain-1", "requirements.lock"):
        assert whole in text
    assert (name == "piped") == ("\t" in text)
