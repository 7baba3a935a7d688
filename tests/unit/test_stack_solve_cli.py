"""`builder stack solve` from the command line: output, exit code, and the printed stack file."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from builder.cli.main import main
from builder.stack.checking import check
from tests.support.output import result_of
from tests.support.repository import knowledge_of


def run(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    code = main(["stack", "solve", *words, "--root", str(root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def words_of(text: str) -> str:
    """Return text with its line breaks replaced by spaces."""
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_solve_prints_a_version_set_with_its_reasons(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, out, _ = run(capsys, root, "--instance", "p5en.48xlarge", "--torch", "2.10", "--os", "ubuntu-24.04")
    rows = [words_of(line) for line in out.splitlines()]
    assert code == 0
    assert any(row.startswith("image torch 2.10.0 requested: --torch 2.10") for row in rows)
    assert any(row.startswith("image nccl 2.27.5") and row.endswith("TORCH-NCCL") for row in rows)
    assert any(
        row.startswith("host nvidia_fabric_manager") and row.endswith("must match nvidia_driver")
        for row in rows
    )
    assert any(row.startswith("image libfabric") and row.endswith("comes with efa") for row in rows)
    assert any(row.startswith("TORCH-PY-02 error: torch 2.9 to 2.14 has wheels") for row in rows)
    assert "assumed kind=ami (an AMI: host and image are the same installation)" in rows
    assert "ensure memlock == unlimited (EFA-RUN-01)" in rows
    assert "rules not evaluated; add --set for " in out
    assert "neuron" not in out


def test_explains_remaining_warnings(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, out, _ = run(capsys, root, "--instance", "p5en.48xlarge", "--pin", "efa=1.43.2")
    assert code == 0
    assert "the newest set, with 2 warnings" in out
    assert "warning OFI-MEM-01" in out
    assert "fix Use aws-ofi-nccl 1.17.3 or later." in words_of(out)


def test_explains_a_contradiction(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    words = ("--instance", "p5en.48xlarge", "--torch", "2.11", "--pin", "efa=1.42", "--pin", "python=3.12")
    code, out, _ = run(capsys, root, *words)
    text = words_of(out)
    assert code == 8
    assert "these requests contradict each other; drop any one of them and the rest fits" in text
    assert "--instance p5en.48xlarge --torch 2.11 --pin efa=1.42 kind=ami (assumed: " in text
    assert "python" not in text
    assert "contents efa 1.42.0: 2.15.3" in text
    assert "rule accel == nvidia, nvidia_driver >= 580, gdr == true → efa_kmod >= 2.17.3" in text
    assert "source efa-notes, amzn-drivers" in text
    assert "error TORCH-DRV" in text
    assert "try torch 2.10.0 instead of --torch 2.11" in text


def test_json_has_the_reasons_of_the_text_output(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, out, _ = run(capsys, root, "--json", "--instance", "p6e-gb200.36xlarge", "--torch", "2.11")
    answer = result_of(out)
    rows = {row["fact"]: row for row in answer["versions"]}
    assert (code, answer["fits"], answer["warnings"]) == (0, True, [])
    assert rows["torch"]["request"] == "--torch 2.11"
    assert rows["libfabric"]["comes_with"] == ["efa"]
    assert rows["nvidia_imex"]["must_match"] == "nvidia_driver"
    assert rows["nvidia_driver"]["held_back"][0]["by"] == ["DRV-595-02"]
    assert answer["rules"]["DRV-595-02"]["severity"] == "error"
    assert answer["ensure"]["BOOT-02"] == ["boot_mode == uefi"]
    assert {request["argument"]: request["assumed"] for request in answer["requests"]}["has_efa=true"]
    assert tomllib.loads(answer["stack"])["pins"]["nvidia_driver"] == rows["nvidia_driver"]["value"]


def test_json_has_a_contradiction_and_its_alternatives(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    words = ("--json", "--instance", "p5.48xlarge", "--pin", "efa=1.47.0", "--pin", "aws_ofi_nccl=1.22")
    code, out, _ = run(capsys, root, *words)
    answer = result_of(out)
    assert (code, answer["fits"]) == (8, False)
    assert [request["argument"] for request in answer["contradiction"]] == [
        "--instance p5.48xlarge",
        "--pin efa=1.47.0",
        "--pin aws_ofi_nccl=1.22",
    ]
    assert answer["because"][0]["contents"] == ["efa 1.47.0: 1.18.0"]
    assert answer["instead"] == {"--pin efa=1.47.0": "1.51.0", "--pin aws_ofi_nccl=1.22": "1.18.0"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--instance", "p5.48xlarg"], "--instance: no EC2 type 'p5.48xlarg' (did you mean 'p5.48xlarge'?)"),
        (
            ["--instance", "p5.48xlarge", "--pin", "ncl=2"],
            "--pin ncl=2: no fact 'ncl' (did you mean 'nccl'?)",
        ),
        (
            ["--instance", "p5.48xlarge", "--pin", "nccl=9"],
            "--pin nccl=9: the catalog has no nccl 9; the newest",
        ),
        (["--instance", "p5.48xlarge", "--pin", "nccl"], "--pin nccl: write NAME=VALUE"),
        (["--instance", "p5.48xlarge", "--pin", "nccl=x"], "--pin nccl=x: 'x' is not a version"),
        (["--instance", "p5.48xlarge", "--pin", "os=al2"], "set it with --set os=al2"),
        (["--instance", "p5.48xlarge", "--set", "gdr=1"], "--set gdr=1: gdr: '1' is neither true nor false"),
        (
            ["--instance", "p5.48xlarge", "--os", "ubunto-24.04"],
            "not an allowed value (did you mean 'ubuntu2404'?)",
        ),
        (["--instance", "p5.48xlarge", "--torch", "9"], "--torch 9: the catalog has no torch 9"),
        (
            ["--instance", "p5.48xlarge", "--torch", "2.10", "--pin", "torch=2.11"],
            "--pin torch=2.11: torch is already set by --torch 2.10",
        ),
        (["--torch", "2.10"], "no machine given"),
    ],
)
def test_the_message_quotes_a_wrong_argument(
    capsys: pytest.CaptureFixture[str], root: Path, words: list[str], message: str
) -> None:
    code, _, err = run(capsys, root, *words)
    assert code == 2
    assert message in err


@pytest.mark.parametrize("name", ["ubuntu-24.04", "ubuntu2404"])
def test_accepts_the_system_names_of_catalog_and_rules(
    capsys: pytest.CaptureFixture[str], root: Path, name: str
) -> None:
    _, out, _ = run(capsys, root, "--json", "--instance", "p5.48xlarge", "--os", name)
    assert result_of(out)["facts"]["os"] == "ubuntu2404"


def test_torch_means_torch_neuronx_on_a_neuron_machine(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    _, out, _ = run(capsys, root, "--json", "--instance", "trn1.32xlarge", "--torch", "2.7")
    facts = result_of(out)["facts"]
    assert facts["torch_neuronx"].startswith("2.7.")
    assert "torch" not in facts


def test_solves_for_an_accelerator_without_an_instance_type(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    code, out, _ = run(capsys, root, "--json", "--set", "accel=nvidia", "--torch", "2.14")
    assert code == 0
    assert {"nvidia_driver", "cuda", "nccl"} <= result_of(out)["facts"].keys()


@pytest.mark.parametrize(
    "words",
    [
        ["--instance", "p5en.48xlarge", "--torch", "2.10", "--os", "ubuntu-24.04"],
        [
            "--instance",
            "p6-b200.48xlarge",
            "--os",
            "al2023",
            "--set",
            "memlock=unlimited",
            "--set",
            "nvlsm=true",
        ],
        ["--instance", "p6e-gb200.36xlarge", "--set", "boot_mode=uefi"],
        ["--instance", "p5.48xlarge", "--set", "kind=container", "--set", "efa_flags=-y,--skip-kmod"],
        ["--instance", "trn2.48xlarge", "--set", "kernel=6.8"],
        ["--instance", "hpc7a.96xlarge", "--os", "al2023"],
    ],
)
def test_the_printed_stack_file_passes_its_check(
    capsys: pytest.CaptureFixture[str], root: Path, tmp_path: Path, words: list[str]
) -> None:
    """Run `stack solve --toml` and check its output on the requested machine type."""
    code, out, _ = run(capsys, root, "--toml", *words)
    assert code == 0
    shutil.copytree(root / "catalog", tmp_path / "catalog")
    for folder in ("ansible", "containers"):
        (tmp_path / folder).symlink_to(root / folder)
    (tmp_path / "catalog" / "stacks" / "solved.toml").write_text(out, encoding="utf-8")
    knowledge = knowledge_of(tmp_path)
    stack = knowledge.stacks["solved"]
    assert stack.instances == (words[1],)
    assert "libfabric" not in stack.pins  # it comes with efa
    result = check(knowledge, {**knowledge.stack_facts("solved"), "instance": words[1]})
    assert [finding.rule.id for finding in result.errors] == []


def test_stack_help_lists_solve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stack", "--help"]) == 0
    assert "solve  find the newest versions that work together on a machine" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--torch", "2.10"], ["--torch", "2.11", "--pin", "efa=1.42"]])
def test_solve_imports_no_third_party_package(root: Path, words: list[str]) -> None:
    program = (
        "import sys; from builder.cli.main import main; main(sys.argv[1:]);"
        "print(sorted({'docker', 'boto3', 'rich', 'yaml', 'hypothesis'} & set(sys.modules)), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", program, "stack", "solve", "--instance", "p5en.48xlarge", *words]
    finished = subprocess.run(
        [*argv, "--root", str(root)], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert finished.stderr.splitlines()[-1] == "[]"
