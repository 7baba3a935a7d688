"""Read the state of GPUs, links and EFA devices from programs of the driver and from sysfs.

Needs the standard library only. Parsers take the output of a program; a missing program has the output None.
"""

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPU_FIELDS = "index,name,persistence_mode,ecc.errors.uncorrected.volatile.total"
ROW_FIELDS = "gpu_uuid,remapped_rows.pending,remapped_rows.failure"
_SHORT_S = 120
# Action for each XID error, from NVIDIA's catalog of XID errors; for other errors it is "monitor".
XIDS = {
    "isolate": (54,),
    "reboot": (79, 151, 168),
    "reset": (48, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
}
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([^)]*)\): (\d+)")


def output(*words: str, timeout_s: int = _SHORT_S) -> str | None:
    """Return the output of a program; None if the program is missing, "" if it fails or takes too long."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (FileNotFoundError, PermissionError):
        return None
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout


@dataclass(frozen=True)
class Gpu:
    """A line of nvidia-smi about one GPU."""

    index: str
    name: str
    is_persistent: bool
    uncorrected: int  # errors of its memory since the driver was loaded


def gpus(text: str) -> list[Gpu]:
    """Return the GPUs of `nvidia-smi --query-gpu=GPU_FIELDS --format=csv,noheader`."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.count(",") == 3]
    return [
        Gpu(index, name, persistence == "Enabled", int(errors) if errors.isdigit() else 0)
        for index, name, persistence, errors in rows
    ]


def remapped_rows(text: str) -> list[tuple[str, str]]:
    """Return each GPU whose remapping of a damaged memory row is pending or failed, with that state."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    yes = ("Yes", "1")
    failed = [(gpu, "failed") for gpu, _, failure in rows if failure in yes]
    return failed + [
        (gpu, "pending") for gpu, pending, failure in rows if pending in yes and failure not in yes
    ]


def links(text: str) -> dict[str, int]:
    """Return the number of active NVLinks of each GPU, from `nvidia-smi nvlink -s`."""
    found: dict[str, int] = {}
    gpu = ""
    for line in text.splitlines():
        if named := re.match(r"GPU (\d+):", line):
            gpu = named[1]
            found[gpu] = 0
        elif gpu and re.match(r"\s+Link \d+: [\d.]+ GB/s", line):
            found[gpu] += 1
    return found


def xids(text: str) -> list[tuple[str, int]]:
    """Return GPU and number of each XID error in a kernel log."""
    return [(gpu, int(number)) for gpu, number in _XID.findall(text)]


def action_of(xid: int) -> str:
    return next((action for action, numbers in XIDS.items() if xid in numbers), "monitor")


def diagnostics(text: str) -> list[tuple[str, str]]:
    """Return each test of `dcgmi diag --json` with its status, such as Pass; the worst of all GPUs counts."""
    try:
        document = json.loads(text[text.find("{") :])
    except ValueError:
        return []
    return [(str(test["name"]), _worst(list(_statuses(test)))) for test in _tests(document)]


def _tests(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for test in value.get("tests") or ():
            if isinstance(test, dict) and "name" in test:
                yield test
        for inner in value.values():
            yield from _tests(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _tests(inner)


def _statuses(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("status"), str):
            yield value["status"]
        for inner in value.values():
            yield from _statuses(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _statuses(inner)


def _worst(statuses: Sequence[str]) -> str:
    order = ("fail", "warn", "pass", "skip")
    return min(
        (status for status in statuses if status.lower() in order),
        key=lambda s: order.index(s.lower()),
        default="Skip",
    )


def bandwidth(text: str) -> tuple[float, bool]:
    """Return the average bus bandwidth in GB/s of nccl-tests, and whether all results were right."""
    average = re.search(r"^# Avg bus bandwidth\s*:\s*([\d.]+)", text, re.MULTILINE)
    wrong = re.search(r"^# Out of bounds values\s*:\s*(\d+)\s+(\w+)", text, re.MULTILINE)
    return (float(average[1]) if average else 0.0), bool(wrong and wrong[2] == "OK")


def efa_devices(sysfs: Path) -> dict[str, str]:
    """Return the state of the first port of each device of the driver efa, such as ACTIVE."""
    found = {}
    for device in sorted((sysfs / "class/infiniband").glob("*")):
        driver = device / "device/driver"
        if driver.exists() and driver.resolve().name == "efa":
            found[device.name] = _text(device / "ports/1/state").rpartition(" ")[2]
    return found


def instance_type(sysfs: Path) -> str:
    """Return the EC2 type, which Nitro instances have as their product name; "" elsewhere."""
    name = _text(sysfs / "devices/virtual/dmi/id/product_name")
    return name if re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", name) else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
