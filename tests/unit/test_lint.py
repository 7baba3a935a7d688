"""`builder lint`: linted files, output (lines, JSON, SARIF), exit codes; this checkout has no findings."""

import json
from pathlib import Path

import pytest

from builder.cli.main import main
from builder.lint.defects import DEFECTS
from builder.lint.files import read_tree
from builder.lint.reference import page
from builder.lint.rules import RULES, check
from builder.lint.shell import commands
from tests.support.output import envelope_of

BAD = "FROM debian:latest\nRUN pip install a>=1.0\n"


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder outside a factory repository, with two bad files and files that no lint rule applies to."""
    for name, text in {
        "a/Dockerfile": BAD,
        "b/train.sbatch": "#SBATCH -N 2\nexport LD_PRELOAD=/a/libnccl.so\n",
        "b/start": "#!/bin/bash\npip install a<2\n",
        ".git/Dockerfile": BAD,
        ".venv/Dockerfile": BAD,
        "node_modules/x/Dockerfile": BAD,
        "model.bin": BAD,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "a" / "link.Dockerfile").symlink_to("Dockerfile")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [[], ["."], ["b", "a"]])
def test_findings_are_lines_of_stdout_and_the_exit_code_is_5(
    foreign: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["lint", *words[:1]]) == 5
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    found = [line.split(": ")[:2] for line in lines]
    expected = [
        ["a/Dockerfile:1", "floating-tag"],
        ["a/Dockerfile:2", "unquoted-constraint"],
        ["b/start:2", "unquoted-constraint"],
        ["b/train.sbatch:2", "preload"],
    ]
    assert found == (expected[2:] if words == ["b", "a"] else expected)
    assert printed.err.startswith(f"error: {len(found)} findings in ")
    assert "hint: builder lint --rules" in printed.err


def test_json_of_lint_findings_has_path_line_reason_and_fix(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lint", str(foreign / "a"), "--json"]) == 5
    envelope = envelope_of(capsys.readouterr().out)
    first, _ = envelope["result"]["findings"]
    assert (first["rule"], first["path"], first["line"]) == ("floating-tag", "a/Dockerfile", 1)
    assert all(first[key] for key in ("message", "why", "fix"))
    assert envelope["error"]["message"] == f"2 findings in 1 file of {foreign / 'a'}"


def test_sarif_names_rules_and_lines(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--sarif", "a/Dockerfile"]) == 5
    log = json.loads(capsys.readouterr().out)
    (run,) = log["runs"]
    assert log["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == [rule.id for rule in RULES]
    result = run["results"][1]
    assert RULES[result["ruleIndex"]].id == result["ruleId"] == "unquoted-constraint"
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "a/Dockerfile", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 2}


def test_lint_of_a_clean_folder_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["lint", str(tmp_path), "--json"]) == 0
    assert envelope_of(capsys.readouterr().out)["result"]["findings"] == []


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nothing"], 3, "no such file or folder: 'nothing'"),
        (["model.bin"], 2, "model.bin: its name is not that of a Dockerfile, script, manifest or text file"),
        (["--json", "--sarif"], 2, "argument --sarif: not allowed with argument --json"),
    ],
)
def test_lint_refuses_wrong_arguments(
    foreign: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    assert main(["lint", *words]) == code
    assert message in capsys.readouterr().err


def test_lint_names_files_that_cannot_be_read(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (foreign / "a" / "Dockerfile").write_bytes(b"FROM \xff\n")
    assert main(["lint", "a"]) == 0
    assert "not read: a/Dockerfile: is not UTF-8 text" in capsys.readouterr().err


def test_an_ignore_comment_suppresses_lint_findings(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(f"# builder lint ignore=floating-tag,preload\n{BAD}", encoding="utf-8")
    tree, _ = read_tree(path)
    assert [finding.rule.id for finding in check(tree)] == ["unquoted-constraint"]


def test_lint_lists_its_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "--rules"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(RULES) + 1


def test_this_checkout_has_no_lint_findings(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    tree, unread = read_tree(Path())
    assert [f"{f.path}:{f.line}: {f.rule.id}: {f.message}" for f in check(tree)] == []
    assert unread == ()
    assert len(list(tree.of_kind("Dockerfile"))) >= 2


def test_reference_page_of_the_lint_rules_is_current(root: Path) -> None:
    assert (root / "docs/reference/lint.md").read_text(encoding="utf-8") == page(RULES, DEFECTS)


def test_shell_text_is_split_into_commands() -> None:
    text = """\
# comment
A=1 sudo pip install "a>=1" \\
  # in between
  b && (cd /x; make) 2>&1 | tee log # end
if test -f a; then rm -rf a; fi
cat > f <<'EOF'
pip install c>=1
EOF
echo "two
lines" $(date) a#b
"""
    found = commands(enumerate(text.splitlines(), start=1))
    assert [(command.line, command.program) for command in found] == [
        *((2, "pip"), (4, "cd"), (4, "make"), (4, "tee")),
        *((5, "test"), (5, "rm"), (5, "fi"), (6, "cat"), (9, "echo"), (10, "date"), (10, "a#b")),
    ]
    assert found[0].arguments == ("install", "a>=1", "b")
    assert ">=" not in found[0].bare


@pytest.mark.parametrize("leads_to", ["loop", "/nonexistent/file"])
def test_a_symbolic_link_that_leads_to_no_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], leads_to: str
) -> None:
    (tmp_path / "loop").symlink_to(leads_to)
    assert main(["lint", str(tmp_path / "loop")]) == 3
    assert "loop: is a symbolic link that leads to no file\nhint: ls -l " in capsys.readouterr().err
