"""Read the facts of a training environment: libraries, programs, devices, limits.

Needs the standard library only. Nothing here raises: a fact that cannot be read is None, an empty text or an
empty list.
"""

import ctypes
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

# Folders of the NCCL plugin in releases of the EFA installer and in NVIDIA's images.
PLUGIN_FOLDERS = (
    "opt/amazon/ofi-nccl/lib",
    "opt/amazon/ofi-nccl/lib/x86_64-linux-gnu",
    "opt/amazon/ofi-nccl/lib/aarch64-linux-gnu",
    "opt/amazon/aws-ofi-nccl/lib",
    "opt/aws-ofi-nccl/install/lib",
)
_PLUGIN = re.compile(r"libnccl-net(-ofi|-aws-ofi)?\.so")
_SETTINGS = re.compile(
    r"(NCCL|FI|OFI_NCCL|TORCH_NCCL|CUDA_VISIBLE|LD_PRELOAD|NVIDIA_VISIBLE|MASTER|RANK|WORLD)"
)
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|KEY")
_TIMEOUT_S = 60


def mapped_libraries(maps: str, name: str) -> list[str]:
    """Return the paths of the libraries with this name in the text of /proc/self/maps."""
    pattern = re.compile(rf"/{re.escape(name)}\.so[.\d]*$")
    paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if line.count(" ") >= 5)
    return sorted({path for path in paths if pattern.search(path)})


def nccl_version(path: str) -> str:
    """Return the version that an NCCL library itself reports; "" if it cannot be loaded."""
    number = ctypes.c_int()
    try:
        if ctypes.CDLL(path).ncclGetVersion(ctypes.byref(number)) != 0:
            return ""
    except (OSError, AttributeError):
        return ""
    return version_text(number.value)


def version_text(number: int) -> str:
    """Return NCCL's version number as text: 22907 is 2.29.7, and 2804 of old releases is 2.8.4."""
    scale = 1000 if number < 10000 else 10000
    return f"{number // scale}.{number % scale // 100}.{number % 100}"


def output(*words: str) -> str:
    """Return the output of a program; "" if it is missing, fails or takes too long."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def libfabric() -> dict[str, object]:
    """Return version, path and EFA support of the libfabric that fi_info loads.

    fi_info lists the provider efa only if there is an EFA device; a libfabric with the provider links libefa.
    """
    version = re.search(r"^libfabric: (\S+)", output("fi_info", "--version"), re.MULTILINE)
    library = re.search(r"libfabric\.so\.1 => (/\S+)", output("ldd", shutil.which("fi_info") or ""))
    has_efa = bool(library) and "libefa.so" in output("ldd", library[1])
    return {
        "version": version[1] if version else "",
        "path": library[1] if library else "",
        "has_efa": has_efa,
    }


def plugins(root: Path, folders: Iterable[str]) -> list[str]:
    """Return the NCCL plugins below the known folders and the folders of a library path."""
    places = [*(root / folder for folder in PLUGIN_FOLDERS), *(Path(folder) for folder in folders if folder)]
    found = {
        str(path)
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if _PLUGIN.match(path.name) and path.exists()
    }
    return sorted(found)


def efa_devices(sysfs: Path) -> list[str]:
    """Return the names of the RDMA devices with the driver efa."""
    found = []
    for device in sorted((sysfs / "class/infiniband").glob("*")):
        driver = device / "device/driver"
        if driver.exists() and driver.resolve().name == "efa":
            found.append(device.name)
    return found


def gpu_files(folder: Path) -> list[str]:
    """Return the device files of GPUs: nvidia0, nvidia1, …"""
    return sorted(path.name for path in folder.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))


def missing_preloads(value: str) -> list[str]:
    """Return the entries of LD_PRELOAD that do not exist."""
    names = [name for name in re.split(r"[\s:]+", value) if name]
    return [name for name in names if "/" in name and not Path(name).exists()]


def locked_memory() -> str:
    """Return the limit of locked memory: unlimited, or a number of bytes."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def shared_memory_bytes(folder: Path) -> int:
    try:
        status = os.statvfs(folder)
    except OSError:
        return 0
    return status.f_frsize * status.f_blocks


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change NCCL, libfabric or the loader, without secrets."""
    names = sorted(name for name in environment if _SETTINGS.match(name) and not _SECRET.search(name))
    return {name: environment[name] for name in names}
