"""The program gpu-healthcheck with fake driver programs on PATH and a fake sysfs folder."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from builder import catalog
from builder.app.expected_values import COLLECTIVES, PAGE, expected_collectives, expected_values

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "gpu-healthcheck" / "src"))

import healthcheck
import probes

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "containers/gpu-healthcheck/src"
SLURM = ROOT / "observability/slurm/slurm.sh"


SMI = """\
#!/bin/sh
case $1 in
--query-gpu=*)
    for i in $GPUS; do echo "$i, NVIDIA H100 80GB HBM3, ${PERSISTENCE:-Enabled}, ${ERRORS:-0}"; done ;;
--query-remapped-rows=*) for i in $GPUS; do echo "GPU-$i, ${PENDING:-No}, ${FAILURE:-No}"; done ;;
nvlink)
    for i in $GPUS; do
        echo "GPU $i: NVIDIA H100 80GB HBM3 (UUID: GPU-$i)"
        for l in $(seq ${LINKS:-18}); do printf '\\t Link %d: 26.562 GB/s\\n' "$l"; done
        printf '\\t Link 18: <inactive>\\n'
    done ;;
esac
"""
DIAGNOSTICS = {
    "DCGM Diagnostic": {
        "test_categories": [
            {"category": "Deployment", "tests": [{"name": "Denylist", "results": [{"status": "Pass"}]}]},
            {
                "category": "Hardware",
                "tests": [
                    {
                        "name": "GPU Memory",
                        "results": [{"gpu_id": "0", "status": "Pass"}, {"status": "STATUS"}],
                    },
                    {"name": "Diagnostic", "results": [{"status": "Skip"}]},
                ],
            },
        ]
    }
}
NCCL = "#  size time\\n# Out of bounds values : 0 OK\\n# Avg bus bandwidth    : SPEED\\n"
EIGHT = "0 1 2 3 4 5 6 7"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Folder with fake driver programs and the fake sysfs of a p5.48xlarge."""
    for name, text in {
        "nvidia-smi": SMI,
        "dcgmi": f"#!/bin/sh\necho Warn\nsed s/STATUS/${{DCGM:-Pass}}/ <<E\n{json.dumps(DIAGNOSTICS)}\nE\n",
        "all_reduce_perf": f"#!/bin/sh\nprintf '{NCCL}' | sed \"s/SPEED/${{SPEED:-480.5}}/\"\n",
        "journalctl": '#!/bin/sh\necho "kernel: fine"; echo "$KERNEL"\n',
        "scontrol": '#!/bin/sh\nprintf "%s\\n" "$@" > "$RECORD"\n',
    }.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    _write(tmp_path / "sys/devices/virtual/dmi/id/product_name", "p5.48xlarge\n")
    (tmp_path / "sys/bus/efa").mkdir(parents=True)
    for i in range(32):
        device = tmp_path / f"sys/class/infiniband/rdmap{i}s0"
        _write(device / "ports/1/state", "4: ACTIVE\n")
        (device / "device").mkdir()
        (device / "device/driver").symlink_to(tmp_path / "sys/bus/efa")
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class Program:
    """Runs gpu-healthcheck in this process, with the fake programs of a machine on PATH."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, machine: Path, *words: str, **variables: str) -> tuple[int, Mapping[str, Any]]:
        """Run gpu-healthcheck; return its exit code and the last JSON line of its output."""
        with self._monkeypatch.context() as patch:
            defaults = {"PATH": f"{machine}/bin:/usr/bin:/bin", "GPUS": EIGHT}
            for name, value in {**defaults, **variables}.items():
                patch.setenv(name, value)
            code = healthcheck.main(["--json", f"--sys={machine}/sys", *words])
        return code, json.loads(self._capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capsys)


def failed(found: Mapping[str, Any]) -> dict[str, str]:
    return {check["name"]: check["severity"] for check in found["checks"] if check["outcome"] == "failed"}


def test_healthy_machine_passes_on_every_level(run: Program, machine: Path) -> None:
    code, found = run(machine, "--level", "3")
    assert (code, found["instance"], found["healthy"], found["action"]) == (0, "p5.48xlarge", True, "")
    assert set(failed(found)) <= {"locked memory"}  # a limit of this machine
    details = {check["name"]: check["detail"] for check in found["checks"]}
    assert details["gpus"] == "8 x NVIDIA H100 80GB HBM3; 8 expected"
    assert details["nvlink"] == "144 links"
    assert details["efa"] == "32 devices; 32 expected"
    assert details["bandwidth"] == "480.5 GB/s; at least 315 expected"
    assert details["dcgm GPU Memory"] == "Pass"


@pytest.mark.parametrize(
    ("variables", "name", "severity", "action"),
    [
        ({"GPUS": "0 1 2 3 4 5 6"}, "gpus", "isolate", "isolate"),
        ({"GPUS": ""}, "gpus", "isolate", "isolate"),
        ({"ERRORS": "2"}, "memory errors", "reset", "reset"),
        ({"PENDING": "Yes"}, "remapped rows", "reset", "reset"),
        ({"FAILURE": "Yes"}, "remapped rows", "isolate", "isolate"),
        ({"PERSISTENCE": "Disabled"}, "persistence", "monitor", ""),
        ({"LINKS": "17"}, "nvlink", "reboot", "reboot"),
        (
            {"KERNEL": "NVRM: Xid (PCI:0000:10:1c): 79, x"},
            "xid",
            "reboot",
            "reboot",
        ),
        ({"KERNEL": "NVRM: Xid (PCI:0000:10:1c): 48, x"}, "xid", "reset", "reset"),
        ({"KERNEL": "NVRM: Xid (PCI:0000:10:1c): 54, x"}, "xid", "isolate", "isolate"),
        ({"KERNEL": "NVRM: Xid (PCI:0000:10:1c): 31, x"}, "xid", "monitor", ""),
        ({"DCGM": "Fail"}, "dcgm GPU Memory", "isolate", "isolate"),
        ({"DCGM": "Warn"}, "dcgm GPU Memory", "monitor", ""),
        ({"SPEED": "300"}, "bandwidth", "isolate", "isolate"),
    ],
)
def test_each_gpu_fault_has_its_severity_and_action(
    run: Program, machine: Path, variables: Mapping[str, str], name: str, severity: str, action: str
) -> None:
    code, found = run(machine, "--level", "3", **variables)
    assert failed(found)[name] == severity
    assert (code, found["action"]) == (5 if action else 0, action)


def test_efa_devices_are_counted_and_must_be_active(run: Program, machine: Path) -> None:
    _write(machine / "sys/class/infiniband/rdmap3s0/ports/1/state", "1: DOWN\n")
    code, found = run(machine)
    assert (code, failed(found)["efa"]) == (5, "reboot")
    (machine / "sys/class/infiniband/rdmap3s0/device/driver").unlink()
    code, found = run(machine)
    assert (code, failed(found)["efa"]) == (5, "isolate")


def test_option_fail_on_sets_the_lowest_failing_severity(run: Program, machine: Path) -> None:
    assert run(machine, "--fail-on", "isolate", LINKS="17")[0] == 0
    assert run(machine, "--fail-on", "monitor", PERSISTENCE="Disabled")[0] == 5


def test_machine_without_gpus_is_healthy_and_all_checks_are_absent(run: Program, tmp_path: Path) -> None:
    code, found = run(tmp_path, "--level", "3", PATH="/nonexistent")
    assert (code, found["healthy"], found["action"]) == (0, True, "not a GPU machine")
    assert {check["outcome"] for check in found["checks"]} == {"absent"}


def test_option_instance_sets_a_known_instance_type(run: Program, machine: Path) -> None:
    assert run(machine, "--instance", "g5.48xlarge")[1]["instance"] == "g5.48xlarge"
    assert healthcheck.main(["--instance", "p9.huge"]) == 2


def test_checks_are_repeated_until_a_check_fails(run: Program, machine: Path) -> None:
    _write(
        machine / "bin/journalctl",
        '#!/bin/sh\necho x >> "$RECORD"\n'
        'test $(wc -l < "$RECORD") -lt 2 || echo "NVRM: Xid (PCI:0): 79, x"\n',
    )
    record = machine / "record"
    assert run(machine, "--every", "1", RECORD=str(record))[0] == 5
    assert record.read_text() == "x\nx\n"


def test_expected_values_are_those_of_the_catalog(root: Path) -> None:
    """To update them, run the command in the module `builder.app.expected_values`."""
    text = (root / PAGE).read_text(encoding="utf-8")
    found = catalog.load(root)
    assert text == expected_values(found)
    assert (root / COLLECTIVES).read_text(encoding="utf-8") == expected_collectives(found)
    collectives = json.loads(expected_collectives(found))
    assert collectives["trn2.48xlarge"] == {"workers": 64, "busbw_nodes_gb_s": 280}
    assert "busbw_nodes_gb_s" not in collectives["inf2.48xlarge"]
    assert json.loads(text)["p5.48xlarge"]["busbw_nodes_gb_s"] == 280


def test_xid_errors_have_the_same_actions_as_the_prometheus_alerts(root: Path) -> None:
    text = (root / "observability/prometheus/rules/gpu.yml").read_text(encoding="utf-8")
    alerts = {"reset": "GpuNeedsReset", "reboot": "GpuNeedsReboot", "isolate": "GpuNeedsReplacement"}
    for action, alert in alerts.items():
        part = text.partition(f"alert: {alert}\n")[2].partition("- alert:")[0]
        numbers = {int(word) for word in part.replace("\n", " ").split() if word.isdigit()} - {1}
        assert numbers == set(probes.XIDS[action]), alert


def slurm(machine: Path, **variables: str) -> tuple[int, list[str]]:
    folder = machine / "slurm"
    folder.mkdir()
    for path in (SLURM, *SOURCE.iterdir()):
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    text = (
        (folder / "slurm.sh")
        .read_text()
        .replace("PATH=/usr/local/sbin", f"PATH={machine}/bin:/usr/local/sbin")
    )
    (folder / "slurm.sh").write_text(text)
    record = machine / "record"
    environment = {"GPUS": EIGHT, "RECORD": str(record), "SLURMD_NODENAME": "node-1"} | variables
    done = subprocess.run(
        ["sh", folder / "slurm.sh"], env=environment, capture_output=True, timeout=60, check=False
    )
    return done.returncode, record.read_text().splitlines() if record.exists() else []


def test_slurm_drains_an_unhealthy_node_with_the_reason(machine: Path) -> None:
    assert slurm(machine, ERRORS="1", GPUS="0 1") == (
        1,
        [
            "update",
            "nodename=node-1",
            "state=drain",
            "reason=gpu-healthcheck: memory errors failed uncorrected errors: GPU 0, 1 (reset)",
        ],
    )


def test_slurm_keeps_a_healthy_node(machine: Path) -> None:
    assert slurm(machine) == (0, [])


def test_slurm_health_check_script_passes_shellcheck(
    run: Program,
) -> None:
    done = subprocess.run(["shellcheck", SLURM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert os.access(SLURM, os.X_OK)
