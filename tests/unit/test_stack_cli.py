"""`builder stack` from the command line: output, exit code, and modules that must not be imported."""

import json
import sys
from pathlib import Path

import pytest

from builder.adapters.host import survey
from builder.cli.main import main
from builder.stack.versions import parse
from builder.stack.vocabulary import write_value
from tests.support.output import result_of
from tests.support.repository import knowledge_of


def run(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str, str]:
    code = main(["stack", *words, "--root", str(root)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (
            ["--set", "efa=1.28.0", "--set", "nccl=2.19.3"],
            0,
            "set      FI_EFA_SET_CUDA_SYNC_MEMOPS=0",
        ),
        (
            ["--set", "cuda=13.0.0", "--set", "nvidia_driver=575.57.08"],
            8,
            "nearest  nvidia_driver 575.57.08 → 580.65.06",
        ),
        (["cuda-13.0", "--instance", "p5en.48xlarge"], 0, "cuda-13.0 on p5en.48xlarge: 3 settings, 4 notes"),
        (["cuda-12.8", "--set", "nvidia_fabric_manager=570.172.07"], 8, "error FM-01"),
        (
            ["--set", "aws_ofi_nccl=1.18.0", "--set", "aws_ofi_nccl_libfabric_major_gt_runtime=true"],
            8,
            "OFI-LF-04",
        ),
        (["--set", "kernel=6.17"], 0, "rules not evaluated; add --set for "),
    ],
)
def test_check_reports_findings_and_smallest_changes(
    capsys: pytest.CaptureFixture[str], root: Path, words: list[str], code: int, expected: str
) -> None:
    ended, out, _ = run(capsys, root, "check", *words)
    assert ended == code
    assert expected in out


def test_every_stack_passes_its_check(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, out, _ = run(capsys, root, "check", "--json")
    judged = result_of(out)
    assert code == 0
    assert all(subject["fits"] for subject in judged)
    assert {subject["name"].split(" on ")[0] for subject in judged} == set(knowledge_of(root).stacks)


def test_json_has_the_findings_of_the_text_output(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    code, out, _ = run(
        capsys, root, "check", "--json", "--set", "cuda=13.0.0", "--set", "nvidia_driver=575.57.08"
    )
    (subject,) = result_of(out)
    error = subject["findings"][0]
    assert code == 8
    assert error["rule"] == "CUDA-DRV-13"
    assert error["sources"] == ["cuda-notes"]
    assert error["nearest"] == [{"fact": "nvidia_driver", "from": "575.57.08", "to": "580.65.06"}]
    assert "aws_ofi_nccl" in subject["undecided"]["OFI-CUDA-01"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--set", "drivr=1"], "--set drivr=1: no fact 'drivr' (did you mean 'nvidia_driver'?)"),
        (
            ["check", "--set", "driver=580"],
            "--set driver=580: no fact 'driver' (did you mean 'nvidia_driver'?)",
        ),
        (["check", "--set", "k8s=1.33"], "--set k8s=1.33: no fact 'k8s' (did you mean 'kubernetes'?)"),
        (
            ["solve", "--instance", "p5.48xlarge", "--pin", "efa_installer=1.51"],
            "--pin efa_installer=1.51: no fact 'efa_installer' (did you mean 'efa'?)",
        ),
        (
            ["solve", "--instance", "trn2.48xlarge", "--pin", "neuron_dkms=2.29"],
            "--pin neuron_dkms=2.29: no fact 'neuron_dkms' (did you mean 'neuron_driver'?)",
        ),
        (["check", "--set", "nccl=banana"], "--set nccl=banana: nccl: 'banana' is not a version"),
        (["check", "--set", "nccl="], "--set nccl=: nccl: '' is not a version"),
        (["check", "--set", "nccl"], "--set nccl: write FACT=VALUE"),
        (
            ["check", "--instance", "p5.48xlarg"],
            "--instance: no EC2 type 'p5.48xlarg' (did you mean 'p5.48xlarge'?)",
        ),
        (["check", "cuda-13"], "no stack 'cuda-13' (did you mean 'cuda-13.2'?)"),
        (["chek"], "builder stack: no action 'chek' (did you mean 'check'?)"),
        (["diff", "cuda-13.0", "cuda13"], "no stack 'cuda13'"),
    ],
)
def test_the_message_quotes_a_wrong_argument(
    capsys: pytest.CaptureFixture[str], root: Path, words: list[str], message: str
) -> None:
    code, _, err = run(capsys, root, *words)
    assert code == 2
    assert message in err


def test_list_show_and_diff_print_stacks(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    _, out, _ = run(capsys, root, "list", "--json")
    assert {stack["name"] for stack in result_of(out)} == set(knowledge_of(root).stacks)
    _, out, _ = run(capsys, root, "show", "cuda-13.0", "--json")
    assert result_of(out)["facts"]["libfabric"] == "2.4.0amzn1.0"
    _, out, _ = run(capsys, root, "show", "cuda-13.0")
    assert "stated" in out
    assert "follows" in out
    code, out, _ = run(capsys, root, "diff", "cuda-12.8", "cuda-13.0", "--json")
    assert code == 1
    assert result_of(out)[0]["fact"] == "os"
    _, out, _ = run(capsys, root, "diff", "cuda-12.8", "cuda-13.0", "--markdown")
    assert out.startswith("### From `cuda-12.8` to `cuda-13.0`\n")


class FakeEngine:
    """Fake engine with a single image."""

    def __init__(self, **config: object) -> None:
        self._image = {"Architecture": "amd64", "Config": config}

    def inspect_image(self, reference: str) -> dict[str, object] | None:
        return self._image if reference == "image:1" else None


def read_image(root: Path, **config: object) -> survey.Survey:
    return survey.of_image(FakeEngine(**config), "image:1", knowledge_of(root).vocabulary)  # type: ignore[arg-type]


def test_reads_facts_from_the_label_of_a_factory_image(root: Path) -> None:
    versions = {"libfabric": "1.17.0-3", "efa": "1.47.0", "torch": "2.13.0+cpu", "numpy": "2.4.1"}
    found = read_image(root, Labels={"factory.versions": json.dumps(versions)})
    assert found.facts["efa"] == parse("1.47.0")
    assert found.facts["torch"] == parse("2.13.0+cpu")
    assert found.facts["kind"] == "container"
    assert found.unread == ()


def test_reads_facts_from_the_environment_of_a_foreign_image(root: Path) -> None:
    found = read_image(
        root,
        Env=["CUDA_VERSION=12.9.1", "NCCL_VERSION=2.27.3-1", "FI_PROVIDER=efa", "EFA_VERSION=newest"],
        Labels={"org.opencontainers.image.ref.name": "ubuntu", "org.opencontainers.image.version": "22.04"},
        Entrypoint=["/opt/nvidia/nvidia_entrypoint.sh"],
    )
    read = {name: write_value(value) for name, value in found.facts.items()}
    assert read["cuda"] == "12.9.1"
    assert read["nccl"] == "2.27.3-1"
    assert read["os"] == "ubuntu2204"
    assert read["arch"] == "x86_64"
    assert read["ngc_entrypoint"] == "true"
    assert "FI_PROVIDER" in read["env"]
    assert "nvidia_driver" not in read
    assert found.unread == ("variable EFA_VERSION: efa: 'newest' is not a version",)


def test_reports_an_unreadable_label(root: Path) -> None:
    found = read_image(root, Labels={"factory.versions": "[1"})
    assert found.unread == ("label factory.versions: not a JSON table",)


def test_reads_facts_of_the_host_from_its_files(tmp_path: Path, root: Path) -> None:
    files = {
        "etc/os-release": 'ID="amzn"\nVERSION_ID="2023"\n',
        "proc/driver/nvidia/version": "NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n",
        "sys/module/efa/version": "2.17.3g\n",
        "sys/module/gdrdrv/version": "2.5.1\n",
        "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
        "sys/class/dmi/id/product_name": "p5en.48xlarge\n",
        "opt/amazon/efa_installed_packages": "# EFA installer version: 1.43.3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = survey.of_host(knowledge_of(root).vocabulary, tmp_path)
    read = {name: write_value(value) for name, value in found.facts.items()}
    assert read["host_os"] == "al2023"
    assert read["nvidia_driver"] == "580.95.05"
    assert read["nvidia_driver_flavor"] == "open"
    assert read["efa_kmod"] == "2.17.3"
    assert read["gdrdrv"] == "2.5.1"
    assert read["instance"] == "p5en.48xlarge"
    assert read["efa"] == "1.43.3"
    assert read["ib_umad"] == "false"


def test_recognizes_the_proprietary_driver(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "proc/driver/nvidia/version"
    path.parent.mkdir(parents=True)
    path.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.133.20  Sun Mar\n", encoding="utf-8")
    facts = survey.of_host(knowledge_of(root).vocabulary, tmp_path).facts
    assert (str(facts["nvidia_driver"]), facts["nvidia_driver_flavor"]) == ("570.133.20", "proprietary")


@pytest.mark.parametrize(
    ("identity", "version", "expected"),
    [
        ("ubuntu", "24.04", "ubuntu2404"),
        ("debian", "12", "debian12"),
        ("amzn", "2", "al2"),
        ("rhel", "9.6", "rhel9"),
        ("rocky", "9.6", "rocky9"),
    ],
)
def test_survey_of_a_host_uses_the_system_names_of_the_rules(
    identity: str, version: str, expected: str
) -> None:
    assert survey.system_name(identity, version) == expected


def test_check_imports_no_third_party_package(capsys: pytest.CaptureFixture[str], root: Path) -> None:
    """`builder stack check` must be fast, because scripts call it often."""
    from builder.adapters.host import process

    program = (
        "import sys; from builder.cli.main import main; main(sys.argv[1:]);"
        "print(sorted({'docker', 'boto3', 'rich', 'yaml', 'hypothesis'} & set(sys.modules)), file=sys.stderr)"
    )
    argv = [sys.executable, "-c", program, "stack", "check", "cuda-13.0", "--root", str(root)]
    finished = process.run(argv, timeout_s=30, cwd=root)
    assert finished.output.splitlines()[-1] == "[]"


def test_check_names_a_version_that_the_catalog_does_not_list(
    capsys: pytest.CaptureFixture[str], root: Path
) -> None:
    code, out, _ = run(capsys, root, "check", "--set", "nccl=9.9.9", "--set", "libfabric=9.9.9")
    assert code == 0
    assert "nccl 9.9.9 is no release in catalog/versions/nccl.toml; rules may not cover it" in out
    assert "that the catalog does not list, so that a wrong one is not found: libfabric 9.9.9\n" in out
