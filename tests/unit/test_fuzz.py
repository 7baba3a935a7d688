"""Damaged input files and odd option values: every command ends with a message, never with a traceback.

`make unit` runs a sample of the cases, `make fuzz` all of them. `FUZZ_PATHS` limits the files that are edited
to those whose path begins with it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.adapters.registry import local
from builder.app import account, rehearsal
from builder.cli.completion import parsers
from builder.cli.main import main
from builder.errors import MissingError
from tests.support.repository import Repository
from tests.unit.test_fuzz_answers import EXAMPLES, PHASES

CODES = {0, 1, 2, 3, 5, 7, 8}  # of design.md, without those of builds, publications and interrupts
DEEP = 100_000
MORE_FILES = {
    "catalog/versions/fabric.toml": """
        summary = "fabric"
        side = "image"
        source = ["book"]
        packages = ["fabric"]
        [[release]]
        version = "1.2"
        date = "2026-01-01"
        bundled_driver = "1.0"
        brings = { fabric = "1.2" }
        keeps = { fabric = "1.2" }
        offers = { fabric = ["1.2"] }
    """,
    "catalog/rules/fabric.toml": """
        subject = "fabric"
        date = "2026-11"
        [[rule]]
        id = "FAB-01"
        severity = "warning"
        side = "image"
        when = ["fabric >= 1.0"]
        require = ["fabric >= 0.9"]
        why = "It fails."
        fix = "Take another."
        source = ["book"]
        fires = [{ fabric = "1.0" }]
        holds = [{ fabric = "0.9" }]
        environment = { A = "1" }
        unset = ["A"]
    """,
    "catalog/profiles/shared.toml": 'summary = "shared"\n',
    "catalog/packer.toml": "plugins = []\n",
    "ansible/requirements.yml": "---\ncollections:\n",
    "site.toml": '[aws]\nregion = "eu-west-1"\n',
    "out/receipts/hello/0.json": '{"format": 1}\n',
    "home/docker-registry/state.json": "{}\n",
    "home/journal/20260101-000000-hello-abcdef.ndjson": "{}\n",
    "home/scratch/20260101-000000-hello-abcdef/alive": "host\nboot\n",
    "docker/config.json": "{}\n",
}
FILES = (
    *("layers", "sources", "facts", "instances", "components/base", "components/fabric", "stacks/plain-1"),
    *("systems/tiny-1", "targets/hello"),
)
PATHS = [
    *(f"catalog/{name}.toml" for name in FILES),
    *(
        "catalog/lock.json",
        "ansible/ansible.cfg",
        "ansible/requirements.lock",
        "ansible/roles/base/tasks/main.yml",
    ),
    *("ansible/roles/base/defaults/main.yml", "ansible/roles/base/tests/test_base.py"),
    *("containers/hello/Dockerfile", "containers/hello/requirements.lock", "containers/hello/src/hello.py"),
    *MORE_FILES,
]
EDITED = [name for name in PATHS if name.startswith(os.environ.get("FUZZ_PATHS", ""))]
COMMANDS = (
    ["list"],
    ["list", "--json"],
    ["show", "hello"],
    ["build", "hello"],
    ["stack", "check"],
    ["lock", "--names"],
    ["clean"],
    ["registry", "status"],
    ["rehearse", "status"],
)


def _absent(path: Path) -> None:
    assert not path.exists()


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _nested(path: Path) -> None:
    is_json = path.suffix in (".json", ".ndjson")
    path.write_text("[" * DEEP if is_json else "x = " + "[" * DEEP + "]" * DEEP)


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(200 << 20)  # a sparse file


def _truncated(path: Path) -> None:
    path.write_text('{"format": 1, "entries": {"a' if path.suffix == ".json" else 'summary = "x')


STATES: dict[str, Callable[[Path], object]] = {
    "absent": _absent,
    "folder": Path.mkdir,
    "loop": _loop,
    "dangling": lambda path: path.symlink_to("/nonexistent/file"),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00\x01" * 100),
    "empty": Path.touch,
    "truncated": _truncated,
    "nested": _nested,
    "huge": _huge,
    "pipe": os.mkfifo,
    "list": lambda path: path.write_text("[]\n"),
    "null": lambda path: path.write_text("null\n"),
    "escapes": lambda path: path.write_text('summary = "\x1b[2J"\n', encoding="utf-8"),
}


CASES = [
    (name, state)
    for name in PATHS
    for state in STATES
    if state != "pipe" or not name.startswith(("home/", "out/", "docker/"))  # files of programs
]


def sampled(cases: list[tuple[str, ...]], *, every: int) -> list[ParameterSet]:
    """Return the cases; only every `every`-th case runs in `make unit`, the others run in `make fuzz`."""
    return [
        pytest.param(
            *case,
            marks=() if number % every == 0 else (pytest.mark.fuzz,),
            id="-".join(case).replace("/", "."),
        )
        for number, case in enumerate(cases)
    ]


@pytest.fixture
def inputs(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Root of a repository with all kinds of input files; neither engine nor network is reachable."""
    for name, text in MORE_FILES.items():
        repository.write(name, text)
    repository.relock()
    root = repository.root
    monkeypatch.setenv("BUILDER_HOME", str(root / "home"))
    monkeypatch.setenv("DOCKER_CONFIG", str(root / "docker"))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.delenv("BUILDER_SITE_FILE", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (root / "home").chmod(0o700)
    return root


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Return exit code and messages of a command; fail the test if the command ended in a traceback."""
    code = main(words)
    captured = capsys.readouterr()
    assert code in CODES, (words, captured.err)
    assert "Traceback" not in captured.err
    assert "Traceback" not in captured.out
    if code > 1 and not captured.out:
        assert re.search(r"^error: \S", captured.err, re.MULTILINE), captured.err
    return code, captured.err


@pytest.mark.parametrize(("name", "state"), sampled(CASES, every=23))
def test_a_damaged_input_file_ends_in_a_message(
    inputs: Path, capsys: pytest.CaptureFixture[str], name: str, state: str
) -> None:
    path = inputs / name
    path.unlink()
    STATES[state](path)
    for words in COMMANDS:
        _, errors = call(capsys, *words, "--root", str(inputs))
        for line in errors.splitlines():
            assert len(line) < 1000, line[:2000]


TOKENS = ("[", "]", "{", "}", '"', "=", ",", "\n", "\0", "-1", "null", "é", "..", "[[", "# ", "9" * 400)


def mutated(text: str, edits: list[tuple[int, int, str]]) -> str:
    """Replace slices of a text; each edit has a position, a length and the new text."""
    for position, length, new in edits:
        start = position % (len(text) + 1)
        text = text[:start] + new + text[start + length :]
    return text


@settings(max_examples=EXAMPLES, suppress_health_check=[*HealthCheck], phases=PHASES)
@given(
    name=st.sampled_from(EDITED),
    edits=st.lists(
        st.tuples(st.integers(0, 10_000), st.integers(0, 20), st.sampled_from(TOKENS) | st.text(max_size=3)),
        min_size=1,
        max_size=4,
    ),
)
def test_an_edited_input_file_ends_in_a_message(
    inputs: Path, capsys: pytest.CaptureFixture[str], name: str, edits: list[tuple[int, int, str]]
) -> None:
    path = inputs / name
    before = path.read_text()
    path.write_text(mutated(before, edits))
    try:
        for words in (["show", "hello"], ["clean"], ["registry", "status"]):
            call(capsys, *words, "--root", str(inputs))
    finally:
        path.write_text(before)


MUTANTS = (
    *("1", "-1", "true", "1.5", "nan", "2026-01-01", '""', '"x"', '"1.0"', "[]", '["x", "x"]', "[[1]]", "{}"),
    *("{ a = 1 }", "[{ a = [] }]"),
)


@pytest.mark.parametrize(
    "name",
    sampled([(name,) for name in PATHS if name.startswith("catalog/") and name.endswith(".toml")], every=6),
)
def test_a_value_of_another_type_ends_in_a_message(
    inputs: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = inputs / name
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        for value in MUTANTS if equals else ():
            path.write_text("\n".join([*lines[:number], f"{key} = {value}", *lines[number + 1 :], ""]))
            call(capsys, "show", "hello", "--root", str(inputs))


def test_a_value_of_another_type_in_the_lock_ends_in_a_message(
    inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = inputs / "catalog/lock.json"
    text = path.read_text()
    for old in re.findall(r": (\S.*?),?$", text, re.MULTILINE):
        for value in (
            "1",
            "-1",
            "null",
            "true",
            "1.5",
            '""',
            '"x"',
            "[]",
            "[[]]",
            "{}",
            '{"a": {"b": []}}',
            "NaN",
        ):
            path.write_text(text.replace(f": {old}", f": {value}", 1))
            call(capsys, "show", "hello", "--root", str(inputs))


VALUES = [
    *("", " ", "-1", "0", "1e999", "nan", "9" * 30, "ünïcode", "a\nb", "\x1b[31m", "../../etc/passwd", "."),
    *(
        "/dev/null",
        "/dev/null/absent",
        "{{ x }}",
        "--",
        "-",
        "=",
        "a=b",
        "x" * 5000,
        "%s%n",
        "*",
        "[",
        "'",
    ),
    *("a,b", "@file", "~", "http://[", "ami-0", "1" * 12),
]
# Commands left out, because they would start programs despite the unreachable engine.
STARTING = {"rehearse up", "registry up"}
PARSERS = {command: options for command, options in parsers() if command not in STARTING}


def test_input_files_that_are_not_utf8_end_in_a_message(repository: Repository) -> None:
    argv = [sys.executable, "-m", "builder.cli.main", "show", b"\xff", "--root", str(repository.root)]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: no target '\\udcff'")


def arguments() -> list[tuple[str, str]]:
    """Return every command with each of its arguments that takes a value.

    The cases of `doctor`, which take 15 s each, come last, so that the sample of `make unit` has none.
    """
    found = [
        (command, action.option_strings[-1] if action.option_strings else f"<{action.dest}>")
        for command, options in PARSERS.items()
        for action in options._actions
        if action.nargs != 0
    ]
    return sorted(found, key=lambda case: case[0] == "doctor")


@pytest.fixture
def offline(inputs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Root of a repository; tests cannot start any service in it."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise MissingError("not started in a test", hint="none")

    monkeypatch.setattr(rehearsal, "ensure_up", refuse)
    monkeypatch.setattr(account, "ensure_up", refuse)
    monkeypatch.setattr(local, "ensure_up", refuse)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)
    return inputs


@pytest.mark.parametrize(("command", "argument"), sampled(arguments(), every=12))
def test_no_value_of_an_option_ends_in_a_traceback(
    offline: Path, capsys: pytest.CaptureFixture[str], command: str, argument: str
) -> None:
    options = PARSERS[command]
    needed = [
        ["hello"] if not action.option_strings else [action.option_strings[-1], "1"]
        for action in options._actions
        if action.required and argument not in (f"<{action.dest}>", *action.option_strings)
    ]
    words = [*command.split(), "--root", str(offline), *(word for pair in needed for word in pair)]
    for value in VALUES:
        given = [value] if argument.startswith("<") else [argument, value]
        _, errors = call(capsys, *words, *given)
        for line in errors.splitlines():
            assert len(line) < 7000, line[:2000]
