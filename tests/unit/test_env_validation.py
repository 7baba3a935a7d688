"""Collected facts and checks of the workload program env-validation, tested without PyTorch."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "env-validation" / "src"))

import facts
import validate

MAPS = """\
7f00-7f01 r--p 00000000 08:01 42  /opt/venv/lib/python3.11/site-packages/nvidia/nccl/lib/libnccl.so.2
7f01-7f02 r-xp 00001000 08:01 42  /opt/venv/lib/python3.11/site-packages/nvidia/nccl/lib/libnccl.so.2
7f02-7f03 r--p 00000000 08:01 43  /opt/amazon/ofi-nccl/lib/libnccl-net-ofi.so
7f03-7f04 rw-p 00000000 00:00 0
7f04-7f05 r--p 00000000 08:01 44  /usr/lib/libnccl.so.2.27.3
"""
NO_PROVIDER = {"version": "1.17.0", "path": "/lib/libfabric.so.1", "has_efa": False}


def found(**changes: Any) -> dict[str, Any]:
    """Return facts of a machine without GPUs and EFA that passes all checks; `changes` replace facts."""
    return {
        "torch": {"version": "2.13.0", "nccl": "2.29.7", "gpus": [], "backends": ["gloo", "nccl"]},
        "nccl": {"mapped": ["/a/libnccl.so.2"], "runtime": ["2.29.7"]},
        "libfabric": {"version": "1.17.0", "path": "/lib/libfabric.so.1", "has_efa": True},
        "plugins": [],
        "efa_devices": [],
        "gpu_files": [],
        "missing_preloads": [],
        "locked_memory": "65536",
        "shared_memory_bytes": 64 << 20,
        **changes,
    }


def outcomes(facts: dict[str, Any], **wanted: int | None) -> dict[str, str]:
    checks = validate.judge(facts, **{"gpus": None, "efa": None, **wanted})
    return {name: outcome for name, outcome, _ in checks}


def gpus(number: int, **changes: Any) -> dict[str, Any]:
    torch = {"version": "2.13.0", "nccl": "2.29.7", "gpus": ["H100"] * number, "backends": []}
    files = [f"nvidia{i}" for i in range(number)]
    whole = {"locked_memory": "unlimited", "shared_memory_bytes": 8 << 30, "gpu_files": files}
    return found(torch=torch, **{**whole, **changes})


def test_mapped_libraries_of_a_process_are_found_by_name() -> None:
    assert facts.mapped_libraries(MAPS, "libnccl") == [
        "/opt/venv/lib/python3.11/site-packages/nvidia/nccl/lib/libnccl.so.2",
        "/usr/lib/libnccl.so.2.27.3",
    ]


@pytest.mark.parametrize(("number", "text"), [(22907, "2.29.7"), (21805, "2.18.5"), (2804, "2.8.4")])
def test_nccl_version_number_is_formatted_as_text(number: int, text: str) -> None:
    assert facts.version_text(number) == text


def test_an_unreadable_nccl_library_has_an_empty_version(tmp_path: Path) -> None:
    (tmp_path / "libnccl.so.2").write_text("no library")
    assert facts.nccl_version(str(tmp_path / "libnccl.so.2")) == ""


def test_nccl_plugins_are_found_in_every_library_folder(tmp_path: Path) -> None:
    for folder in ("opt/amazon/ofi-nccl/lib", "opt/aws-ofi-nccl/install/lib", "mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "libnccl-net-ofi.so").touch()
    (tmp_path / "mine" / "libnccl-net.so").symlink_to("missing")
    paths = facts.plugins(tmp_path, ["", str(tmp_path / "mine"), "/nonexistent"])
    assert len(paths) == 3
    assert not [path for path in paths if path.endswith("libnccl-net.so")]


def test_only_devices_of_the_efa_driver_count_as_efa_devices(tmp_path: Path) -> None:
    for name, driver in (("rdmap0s6", "efa"), ("mlx5_0", "mlx5_core")):
        device = tmp_path / "class/infiniband" / name / "device"
        device.mkdir(parents=True)
        (tmp_path / "drivers" / driver).mkdir(parents=True)
        (device / "driver").symlink_to(tmp_path / "drivers" / driver)
    assert facts.efa_devices(tmp_path) == ["rdmap0s6"]
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert facts.gpu_files(tmp_path) == ["nvidia0", "nvidia1"]


def test_reported_environment_settings_contain_no_secret() -> None:
    environment = {
        "NCCL_DEBUG": "INFO",
        "FI_PROVIDER": "efa",
        "RANK_TOKEN": "x",
        "HOME": "/",
        "HF_TOKEN": "x",
    }
    assert facts.settings(environment) == {"FI_PROVIDER": "efa", "NCCL_DEBUG": "INFO"}


def test_a_missing_library_in_ld_preload_is_named(tmp_path: Path) -> None:
    (tmp_path / "here.so").touch()
    value = f"{tmp_path}/here.so:{tmp_path}/gone.so libc.so.6"
    assert facts.missing_preloads(value) == [f"{tmp_path}/gone.so"]


def test_a_machine_without_gpus_and_efa_passes() -> None:
    result = outcomes(found())
    assert "failed" not in result.values()
    assert result["gpus"] == result["efa"] == result["nccl plugin"] == "absent"


@pytest.mark.parametrize(
    ("facts", "failed"),
    [
        (found(torch={"error": "ImportError: libcudart"}), {"torch"}),
        (found(nccl={"mapped": ["/a", "/b"], "runtime": ["2.29.7", "2.27.3"]}), {"nccl"}),
        (found(nccl={"mapped": ["/a"], "runtime": ["2.27.3"]}), {"nccl"}),
        (found(missing_preloads=["/gone.so"]), {"preload"}),
        (found(gpu_files=["nvidia0"]), {"gpus"}),
        (gpus(8, efa_devices=["a"]), {"nccl plugin"}),
        (
            gpus(8, efa_devices=["a"], plugins=["/p"], libfabric=NO_PROVIDER),
            {"libfabric"},
        ),
        (gpus(8, locked_memory="65536"), {"locked memory"}),
        (gpus(8, shared_memory_bytes=64 << 20), {"shared memory"}),
        (gpus(8), set()),
    ],
)
def test_facts_that_slow_or_break_a_job_fail_a_check(facts: dict[str, Any], failed: set[str]) -> None:
    assert {name for name, outcome in outcomes(facts).items() if outcome == "failed"} == failed


def test_device_counts_are_checked_if_expected_counts_are_given() -> None:
    assert outcomes(gpus(8), gpus=8)["gpus"] == "passed"
    assert outcomes(gpus(7), gpus=8)["gpus"] == "failed"
    assert outcomes(found(), efa=0)["efa"] == "absent"
    assert outcomes(found(), efa=4)["efa"] == "failed"
