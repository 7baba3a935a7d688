"""Workload Dockerfiles: the base image is checked before a build; errors name lines of the user's file."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import dockerfile
from builder.adapters.container import workload
from builder.adapters.container.failed import FailedContainers
from builder.cli.main import main
from builder.errors import BuildError, CatalogError
from builder.marks import RUN_LABEL
from builder.model import Plan
from builder.sources import copied_files
from tests.support.repository import Repository

PATH = "containers/hello/Dockerfile"
HEAD = "# A comment.\nARG PARENT\n\nFROM ${PARENT} \\\n  AS base\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ARG PARENT\nFROM debian\n", f"{PATH}:2: FROM debian: a workload starts from its component layers"),
        ("from cpu-ddp:debian-12\n", f"{PATH}:1: FROM cpu-ddp:debian-12: "),
        ("ARG PARENT\nFROM ${PARENT} AS a\nFROM scratch\nCOPY --from=a / /\n", f"{PATH}:3: FROM scratch: "),
        ("ARG PARENT\nFROM ${PARENT}\nCOPY --from=debian:12 / /\n", f"{PATH}:3: COPY --from=debian:12: "),
        ("FROM ${PARENT}\n", f"{PATH}:1: needs the line ARG PARENT before its first FROM"),
        ("ARG PARENT\nFROM \\\n  debian\n", f"{PATH}:2: FROM debian: "),
        ("ARG PARENT\nFROM", f"{PATH}:2: FROM : "),
        ("", f"{PATH}: has no FROM; "),
        ("# only a comment \\\n", f"{PATH}: has no FROM; "),
    ],
)
def test_dockerfile_with_another_base_image_is_refused_before_the_build(
    repository: Repository, capsys: pytest.CaptureFixture[str], text: str, problem: str
) -> None:
    (repository.root / PATH).write_text(text)
    with pytest.raises(CatalogError) as caught:
        repository.plan()
    assert caught.value.problems[0].startswith(problem)
    assert main(["build", "--target", "hello", "--root", str(repository.root)]) == 2
    assert problem in capsys.readouterr().err


# Dockerfiles that hide a base image `evil`, a download or another file from a simple parser.
HIDDEN = [
    "FROM\tevil",
    "FROM \\\n\tevil",
    "FR\\\nOM evil",
    "FR\\\n# a comment\n\nOM evil",
    "RUN true <<CMD\nFROM evil\nCMD",
    "RUN true \\\x0c\nFROM evil",
    "RUN true \\\xa0\nFROM evil",
    "RUN true \\\\\nFROM evil",
    "FR\\\n\xa0\nOM evil",
    "FR\\\n\x0b\nOM evil",
    "FR\\\n\u2028\nOM evil",
    "COPY\t--from=evil / /",
    "COPY --fr\\om=evil / /",
    "COPY --fr\\\nom=evil / /",
    "COPY --'from'=evil / /",
    'COPY --"from=evil" / /',
    "COPY --chown=0:0 --from=evil / /",
    "COPY --from=${X} / /",
    "COPY --from=a:b / /",
    "RUN --mount=type=bind,from=evil,target=/x true",
    "RUN --mount=from=evil true",
    "RUN --mount=type=bind,FROM=evil,target=/x true",
    "ONBUILD ADD https://evil/x /\nFROM b",
    "onbuild copy --from=evil / /",
    "ADD\thttps://evil/x /",
    "ADD https:${X}//evil/x /",
    'ADD ["https:\\/\\/evil/x", "/"]',
    'ADD ["\\u0068ttps://evil/x", "/"]',
    "ADD https\\://evil/x /",
    "ADD ${X}//evil/x /",
    "ADD $X /",
    "ADD 'hello/src' /",
]


def problems_of(folder: Path, text: str) -> list[str]:
    """Return the problems that the catalog reports for the Dockerfile of a workload."""
    target: Any = SimpleNamespace(workload="hello")
    try:
        copied_files(folder, text, target)
    except CatalogError as error:
        return list(error.problems)
    return dockerfile.base_problems(PATH, text)


@pytest.mark.parametrize("text", HIDDEN)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_hidden_base_image_download_or_file_is_refused(tmp_path: Path, text: str, end: str) -> None:
    for name in ("${X}/evil", "https:${X}/evil", "https:\\/\\/evil", "https\\:/evil"):
        folder = tmp_path / name  # an attacker adds files with these names
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "x").touch()
    lines = f"ARG PARENT\nARG X=https:\nFROM ${{PARENT}} AS b\n{text}\n"
    assert problems_of(tmp_path, lines.replace("\n", end)) != []


@pytest.mark.parametrize(("value", "is_refused"), [("`", True), ("\\", False), ("\\`", True)])
@pytest.mark.parametrize("directive", ["# escape={}", "#ESCAPE = {}", "\t# escape={} \r"])
def test_another_escape_character_is_refused(
    tmp_path: Path, directive: str, value: str, *, is_refused: bool
) -> None:
    text = f"{directive.format(value)}\nARG PARENT\nFROM ${{PARENT}}\nRUN true \\\nFROM evil\n"
    found = problems_of(tmp_path, text)
    assert [problem for problem in found if "escape character must be a backslash" in problem] == found
    assert bool(found) == is_refused


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        "ARG A\nARG PARENT=x\nFROM --platform=linux/amd64 $PARENT\n",
        "ARG PARENT\nFROM ${PARENT} as first\nFROM FIRST\nCOPY --from=first /a /a\nCOPY --from=0 / /\n",
    ],
)
def test_build_stages_on_the_component_layers_are_allowed(text: str) -> None:
    assert dockerfile.base_problems(PATH, text) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('COPY "hello/src/ /', ': COPY "hello/src/: write the path without quotes, '),
        ("COPY hello/**x /", ": COPY hello/**x: "),
        ("COPY " + "[" * 5000 + " /", ": COPY [[["),
        ('COPY ["hello/a  b", "/"]', ": COPY hello/a  b: no such file below containers/"),
        (
            "ADD https://example.org/x /",
            ": ADD https://example.org/x: must be a file or folder below containers/",
        ),
        ("COPY nope /", ": COPY nope: no such file below containers/"),
    ],
)
def test_files_that_cannot_be_copied_are_reported_with_their_line(
    repository: Repository, line: str, problem: str
) -> None:
    (repository.root / PATH).write_text(f"{HEAD}\n{line}\n")
    with pytest.raises(CatalogError) as caught:
        repository.plan()
    assert caught.value.problems[0].startswith(f"{PATH}:7{problem}")


def test_instructions_have_the_lines_of_the_file() -> None:
    text = f'{HEAD}RUN a \\\n# a comment\n\n  && b \\\n  && c\ncopy x /\nCMD ["x"] \\'
    assert [(i.line, i.end, i.name, i.text) for i in dockerfile.instructions(text)] == [
        (2, 2, "ARG", "PARENT"),
        (4, 5, "FROM", "${PARENT}   AS base"),
        (6, 10, "RUN", "a   && b   && c"),
        (11, 11, "COPY", "x /"),
        (12, 12, "CMD", '["x"]'),
    ]


def test_inserted_labels_do_not_change_the_line_numbers_of_errors() -> None:
    made = dockerfile.labelled(f"{HEAD}RUN a\nFROM base\nRUNX b\n", "run", "1")
    lines = made.text.split("\n")
    assert [line for line in lines if line.startswith("LABEL")] == ['LABEL "run"="1"'] * 2
    assert [
        made.line(lines.index(text) + 1) for text in ("ARG PARENT", "  AS base", "RUN a", "FROM base")
    ] == [
        *(2, 5, 6, 7),
    ]
    assert made.line(lines.index("RUNX b") + 1) == 8
    assert made.line(10_000) == 9


OWN, FOREIGN, ENDED = ("a" * 12, "b" * 12, "c" * 12)


class Engine:
    """Fake engine that answers a build request with an error or a stream of events."""

    def __init__(self, *events: dict[str, str], refusal: str = "") -> None:
        self._events, self._refusal = events, refusal

        self.limited: list[tuple[str, int]] = []

    def info(self) -> dict[str, object]:
        return {"PidsLimit": True}

    def inspect_container(self, container: str) -> dict[str, object] | None:
        run = {OWN: "a", FOREIGN: "b"}.get(container)
        return {"Config": {"Labels": {RUN_LABEL: run}}} if run else None

    def limit_processes(self, container: str, count: int) -> None:
        self.limited.append((container, count))

    def build(self, *_: object, **__: object) -> Iterator[dict[str, str]]:
        if self._refusal:
            raise BuildError("engine error while building an image", details=self._refusal)
        yield from self._events


def build(engine: Any, context: workload.Context, plan: Plan, labels: dict[str, str]) -> None:
    run: Any = None  # unused, because no container is kept
    failed = FailedContainers(engine, run, keep=False)
    workload.build(engine, context, plan, parent="p", labels=labels, say=lambda _: None, failed=failed)


def test_only_containers_of_the_build_get_a_process_limit(repository: Repository) -> None:
    context = workload.make_context(repository.root, repository.plan(), (RUN_LABEL, "a"))
    engine: Any = Engine(
        *({"stream": f" ---> Running in {name}\n"} for name in (OWN, FOREIGN, ENDED)),
        {"stream": f"printed ---> Running in {FOREIGN}\n"},
    )
    build(engine, context, repository.plan(), {RUN_LABEL: "a"})
    assert [name for name, count in engine.limited if 0 < count <= 4096] == [OWN]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            Engine(refusal="dockerfile parse error line 8: unknown instruction: RUNX"),
            f"{PATH}:7: unknown instruction: RUNX",
        ),
        (
            Engine(refusal="dockerfile parse error on line 8: unknown instruction: RUNX"),
            f"{PATH}:7: unknown instruction: RUNX",
        ),
        (
            Engine({"stream": "Step 4/5 : RUN false\n"}, {"error": "returned a non-zero code: 1"}),
            f"{PATH}:6: RUN false: returned a non-zero code: 1",
        ),
        (Engine({"error": "no space"}), f"{PATH}: no space"),
        (Engine(refusal="no such image"), "engine error while building an image"),
    ],
)
def test_engine_errors_name_the_line_of_the_users_dockerfile(
    repository: Repository, answer: Any, message: str
) -> None:
    (repository.root / PATH).write_text(f"{HEAD}RUN false\nRUNX b\n")
    plan = repository.plan()
    context = workload.make_context(repository.root, plan, ("run", "a"))
    with pytest.raises(BuildError) as caught:
        build(answer, context, plan, {})
    assert caught.value.message == message
    assert caught.value.exit_code == 4
