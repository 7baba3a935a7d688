"""Counts (GPUs, network cards, …) of EC2 instance types in the catalog, compared with moto's type list."""

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from builder import catalog

UNLISTED = {"p6e-gb200.36xlarge"}


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    spec = importlib.util.find_spec("moto")
    assert spec
    assert spec.origin
    path = Path(spec.origin).parent / "ec2/resources/instance_types.json.gz"
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found


def _counts(entry: dict[str, Any]) -> dict[str, int | None]:
    network, processor = entry["NetworkInfo"], entry["VCpuInfo"]
    neuron = entry.get("NeuronInfo", {}).get("NeuronDevices", [])
    groups = entry.get("GpuInfo", {}).get("Gpus") or neuron
    has_efa = network.get("EfaSupported")
    return {
        "count": sum(group["Count"] for group in groups),
        "vcpus": processor["DefaultVCpus"],
        "threads": processor.get("DefaultThreadsPerCore", 1),
        "ram_gib": entry["MemoryInfo"]["SizeInMiB"] // 1024,
        "nvme_gb": entry.get("InstanceStorageInfo", {}).get("TotalSizeInGB", 0),
        "neuron_cores": sum(g["Count"] * g["CoreInfo"]["Count"] for g in neuron) or None,
        "efa": network["EfaInfo"]["MaximumEfaInterfaces"] if has_efa else 0,
        "cards": network["MaximumNetworkCards"],
    }


def test_device_counts_of_instance_types_equal_those_in_moto(root: Path, listed: dict[str, Any]) -> None:
    differences = []
    for name, instance in catalog.load(root).instances.items():
        if name not in UNLISTED:
            for key, value in _counts(listed[name]).items():
                stated = getattr(instance, key)
                if stated != value and not (stated is None and key == "cards"):
                    differences.append(f"{name}: {key}: catalog {stated}, list {value}")
    assert differences == []
