"""Shell completion: candidates from parsers and catalog, and scripts for shells, tested with TAB."""

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.app.candidates import FREE, SOURCES
from builder.cli.completion import _split, complete, parsers
from builder.cli.main import main
from tests.support.repository import Repository, flavour


@pytest.fixture
def here(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Test repository as current folder, with another flavour of target `hello` and a receipt of an AMI."""
    path = repository.root / "catalog/targets/hello.toml"
    path.write_text(path.read_text() + flavour("tiny-1", "plain-1", "wide"), encoding="utf-8")
    repository.write("catalog/versions/fabric.toml", 'summary = "The fabric"\nside = "image"\n')
    folder = repository.root / "out/receipts/machine"
    folder.mkdir(parents=True)
    artifact = {"kind": "ami", "reference": "ami-0123456789abcdef0"}
    receipt = {"format": 1, "created": "2026-01-02", "artifact": artifact}
    (folder / "0a.json").write_text(json.dumps(receipt))
    monkeypatch.chdir(repository.root)
    return repository


def values(*words: str) -> list[str]:
    return [value for value, _ in complete(words)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pl"], ["plan"]),
        (["help", "st"], ["stack"]),
        (["--v"], ["--version"]),
        (["build", "h"], ["hello"]),
        (["build", "hello", ""], []),
        (["build", "--target", ""], ["hello"]),
        (["build", "--target=he"], ["--target=hello"]),
        (["build", "hello", "--flavour", ""], ["plain", "wide"]),
        (["build", "hello", "--flavour=w"], ["--flavour=wide"]),
        (["build", "--si"], ["--site"]),
        (["build", "--site", ""], ["local", "aws"]),
        (["build", "--kind", "c"], ["container"]),
        (["build", "--all", "--a"], []),
        (["build", "--", "h"], ["hello"]),
        (["list", "--json", "--n"], []),
        (["show", "he"], ["hello"]),
        (["stack", "sh"], ["show"]),
        (["stack", "show", ""], ["plain-1"]),
        (["stack", "diff", "plain-1", ""], []),
        (["stack", "check", "--instance", ""], ["m7i.large"]),
        (["stack", "check", "--set", "fab"], ["fabric="]),
        (["stack", "solve", "--pin", "fab"], ["fabric="]),
        (["role", "fab"], ["fabric"]),
        (["role", "--system", ""], ["tiny-1"]),
        (["lock", "--update", "tin"], ["tiny-1"]),
        (["ami", "show", "ami-"], ["ami-0123456789abcdef0"]),
        (["ami", "show", "out"], ["out/receipts/machine/0a.json"]),
        (["ami", "show", "mach"], ["machine"]),
        (["ami", "show", "./out/rec"], ["./out/receipts/"]),
        (["ami", "retire", "--f"], ["--force"]),
        (["ami", "retire", "--af"], []),
        (["plan", "--root", "cata"], ["catalog/"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["rehearse", "cl"], ["cluster"]),
        (["rehearse", "cluster", "st"], ["status"]),
        (["rehearse", "cluster", "up", "--instance", ""], ["m7i.large"]),
        (["rehearse", "cluster", "nothing", ""], []),
        (["nothing", ""], []),
        (["ami", "nothing", ""], []),
    ],
)
def test_command_lines_have_the_expected_completion_candidates(
    here: Repository, words: list[str], expected: list[str]
) -> None:
    found = values(*words)
    if words[-1].startswith("-") or expected:
        assert found == expected
    else:
        assert all(value.startswith("-") for value in found)
    assert here.root == Path.cwd()


def test_completed_options_are_those_of_the_parser_with_their_help(here: Repository) -> None:
    for command, options in parsers():
        words = [*command.split(), "-"]
        shown = {
            string
            for action in options._actions
            if action.help != "==SUPPRESS=="
            for string in action.option_strings
        }
        assert {value for value, _ in complete(words)} <= shown
        assert all(text for _, text in complete(words)), command
    assert here.root == Path.cwd()


def test_every_metavar_has_completion_candidates_or_is_declared_free_text() -> None:
    metavars = {
        str(action.metavar)
        for _, options in parsers()
        for action in options._actions
        if action.nargs != 0 and not action.choices and action.help != "==SUPPRESS=="
    }
    assert metavars - FREE - SOURCES.keys() == set()
    assert (FREE | SOURCES.keys()) - metavars == set()


def test_completion_offers_images_of_the_engine_except_layers(
    monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    from builder.adapters.engine.client import Engine, Image

    tags = ("hello:plain-1", "factory-layers:0a")
    monkeypatch.setattr(
        Engine, "images", lambda _: [Image(id="1", size_bytes=1, tags=tags, labels={}, created=1)]
    )
    monkeypatch.chdir(root)
    assert values("check", "") == ["hello:plain-1"]
    assert values("stack", "check", "--image", "hel") == ["hello:plain-1"]


def test_completion_offers_no_values_without_a_readable_catalog(
    here: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    here.write("catalog/layers.toml", "{")
    assert values("build", "h") == []
    assert values("bui") == ["build"]
    monkeypatch.chdir("/")
    assert values("stack", "show", "no-such-stack") == []


def test_command_line_is_split_into_words_as_a_shell_does() -> None:
    assert _split("builder  build 'a b' c\\ d ") == ["builder", "build", "a b", "c d", ""]
    assert _split("builder show 'he") == ["builder", "show", "he"]
    assert _split("") == [""]


def test_completion_imports_no_third_party_package(root: Path) -> None:
    program = (
        "import sys; from builder.cli.completion import complete; complete(['build', '']);"
        " complete(['stack', 'check', '--set', '']); complete(['ami', 'retire', '']);"
        " print(sorted({'docker', 'requests', 'rich', 'yaml', 'boto3', 'urllib3'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_completion_scripts_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        assert "completion words" in capsys.readouterr().out


# Completion in real shells, at a terminal


class Shell:
    """An interactive shell in a pseudo-terminal, with the completion of `builder`."""

    def __init__(self, argv: list[str], folder: Path, path: str) -> None:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            environment = {
                "PATH": path,
                "TERM": "dumb",
                "HOME": str(folder),
                "LANG": "C.UTF-8",
                "ZDOTDIR": str(folder),
            }
            os.chdir(folder)
            os.execvpe(argv[0], argv, environment)
        self.output = ""

    def send(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def wait_for(self, text: str) -> None:
        """Read the output until it contains a text."""
        deadline = time.monotonic() + 60
        while text not in self.output:
            ready, _, _ = select.select([self._terminal], [], [], max(deadline - time.monotonic(), 0))
            assert ready, f"no {text!r} in: {self.output!r}"
            self.output += os.read(self._terminal, 4096).decode(errors="replace")

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self._pid, 0)


SHELLS = {
    "bash": (["bash", "--norc", "-i"], "source <(builder completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u; source <(builder completion zsh)"),
    "fish": (["fish", "--private", "--no-config", "-i"], "builder completion fish | source"),
}


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest, here: Repository, tmp_path: Path) -> Iterator[Shell]:
    argv, load = SHELLS[request.param]
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed (make tools)")
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "builder").write_text(f'#!/bin/sh\nexec {sys.executable} -m builder.cli.main "$@"\n')
    (programs / "builder").chmod(0o755)
    running = Shell(argv, here.root, f"{programs}:{os.environ['PATH']}")
    running.send(f"{load}; echo load''ed\r")
    running.wait_for("loaded")
    yield running
    running.close()


LINES = {
    "builder pla\thel\t--fla\tw\t": "builder plan hello --flavour wide",
    "builder build --target=he\t--si\taw\t": "builder build --target=hello --site aws",
    "builder stack sh\tpl\t": "builder stack show plain-1",
    "builder stack check --set fab\t1.2": "builder stack check --set fabric=1.2",
}


def test_tab_completes_in_the_shell(shell: Shell) -> None:
    """`echo` is inserted before each completed line, so that the shell prints and does not run it."""
    for typed, completed in LINES.items():
        shell.send(f"{typed}\x01echo \r")
        shell.wait_for(completed)
