"""Print what a training job would find in this environment, check it, and exit with 5 if a check fails.

Runs in any image with PyTorch, on any machine: without a device, its checks are absent, and fail only if an
option requires the device.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import facts

PASSED, FAILED, ABSENT = "passed", "failed", "absent"
_FINDINGS = 5
_SMALL_SHM = 1 << 30
_TIMEOUT_S = 120

Check = tuple[str, str, str]  # name, outcome, detail


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="validate.py", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print facts and checks as JSON")
    parser.add_argument("--gpus", type=int, metavar="N", help="fail unless PyTorch sees N GPUs")
    parser.add_argument("--efa", type=int, metavar="N", help="fail unless there are N EFA devices")
    parser.add_argument(
        "--ranks", type=int, default=2, metavar="N", help="processes of the all-reduce (default: 2)"
    )
    return parser.parse_args(argv)


def gather() -> dict[str, Any]:
    """Return all facts, after the import of PyTorch, which loads its libraries."""
    found: dict[str, Any] = {"python": sys.version.split()[0], "torch": _torch()}
    maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    mapped = facts.mapped_libraries(maps, "libnccl")
    search = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    return found | {
        "nccl": {"mapped": mapped, "runtime": [facts.nccl_version(path) for path in mapped]},
        "libfabric": facts.libfabric(),
        "openmpi": next(iter(facts.output("mpirun", "--version").splitlines()), "").rpartition(" ")[2],
        "plugins": facts.plugins(Path("/"), search),
        "efa_devices": facts.efa_devices(Path("/sys")),
        "gpu_files": facts.gpu_files(Path("/dev")),
        "driver": facts.output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split(
            "\n"
        )[0],
        "missing_preloads": facts.missing_preloads(os.environ.get("LD_PRELOAD", "")),
        "locked_memory": facts.locked_memory(),
        "shared_memory_bytes": facts.shared_memory_bytes(Path("/dev/shm")),
        "settings": facts.settings(os.environ),
    }


def _torch() -> dict[str, Any]:
    """Return the facts of PyTorch; only `error` if it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    has_gpus = torch.cuda.is_available()
    compiled = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else ()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "cudnn": str(torch.backends.cudnn.version() or ""),
        "nccl": ".".join(str(part) for part in compiled),
        "gpus": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        if has_gpus
        else [],
        "backends": [
            name for name in ("gloo", "nccl", "mpi") if torch.distributed.is_backend_available(name)
        ],
    }


def judge(found: Mapping[str, Any], *, gpus: int | None, efa: int | None) -> list[Check]:
    """Return the check results of the facts; with `gpus` or `efa` None, any number of devices passes."""
    torch, nccl = found["torch"], found["nccl"]
    if error := torch.get("error"):
        return [("torch", FAILED, error)]
    checks = [("torch", PASSED, torch["version"])]
    checks.append(_nccl(torch["nccl"], nccl["mapped"], nccl["runtime"]))
    checks.append(_count("gpus", torch["gpus"], gpus, found["gpu_files"]))
    checks.append(_count("efa", found["efa_devices"], efa, []))
    checks.append(_libfabric(found["libfabric"], is_needed=bool(found["efa_devices"])))
    checks.append(_plugin(found))
    missing = found["missing_preloads"]
    checks.append(
        ("preload", FAILED, f"no file {', '.join(missing)}") if missing else ("preload", PASSED, "")
    )
    needs_memory = bool(found["efa_devices"] or torch["gpus"])
    limited = found["locked_memory"] != "unlimited"
    checks.append(("locked memory", FAILED if limited and needs_memory else PASSED, found["locked_memory"]))
    small = found["shared_memory_bytes"] < _SMALL_SHM and len(torch["gpus"]) > 1
    checks.append(("shared memory", FAILED if small else PASSED, f"{found['shared_memory_bytes'] >> 20} MiB"))
    return checks


def _nccl(compiled: str, mapped: Sequence[str], runtime: Sequence[str]) -> Check:
    """Compare the NCCL version for which PyTorch was built with the NCCL library of this process."""
    if not compiled:
        return ("nccl", ABSENT, "PyTorch is built without NCCL")
    if len(mapped) != 1:
        return ("nccl", FAILED, f"{len(mapped)} libraries in the process: {', '.join(mapped)}")
    outcome = PASSED if runtime[0] == compiled else FAILED
    return ("nccl", outcome, f"built with {compiled}, runs {runtime[0]} of {mapped[0]}")


def _libfabric(found: Mapping[str, Any], *, is_needed: bool) -> Check:
    detail = f"{found['version']} of {found['path']}" if found["path"] else "no libfabric"
    if found["has_efa"]:
        return ("libfabric", PASSED, detail)
    return ("libfabric", FAILED if is_needed else ABSENT, f"{detail}: no provider efa")


def _count(name: str, devices: Sequence[str], wanted: int | None, files: Sequence[str]) -> Check:
    detail = ", ".join(devices) or "none"
    if wanted is not None and len(devices) != wanted:
        return (name, FAILED, f"{len(devices)} instead of {wanted}: {detail}")
    if len(files) > len(devices):
        return (name, FAILED, f"{len(files)} device files, but PyTorch sees {len(devices)}")
    return (name, PASSED if devices else ABSENT, detail)


def _plugin(found: Mapping[str, Any]) -> Check:
    """Check for the NCCL plugin: without the plugin, NCCL uses TCP instead of EFA and reports no error."""
    if found["plugins"]:
        return ("nccl plugin", PASSED, ", ".join(found["plugins"]))
    is_needed = found["efa_devices"] and found["torch"]["gpus"]
    return ("nccl plugin", FAILED if is_needed else ABSENT, "no libnccl-net-ofi.so; NCCL would use TCP")


def all_reduce(ranks: int, *, gpus: int) -> Check:
    """Sum over `ranks` processes, on GPUs with NCCL if there are enough of them, otherwise with gloo."""
    import torch.multiprocessing as processes

    backend = "nccl" if gpus >= ranks else "gloo"
    folder = Path(os.environ.get("TMPDIR", "/tmp"), f"validate-{os.getpid()}")
    try:
        processes.spawn(_rank, args=(ranks, backend, str(folder)), nprocs=ranks, join=True)
    except (RuntimeError, processes.ProcessException) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        return ("all-reduce", FAILED, f"{backend}, {ranks} ranks: {reason}")
    finally:
        folder.unlink(missing_ok=True)
    return ("all-reduce", PASSED, f"{backend}, {ranks} ranks")


def _rank(rank: int, ranks: int, backend: str, path: str) -> None:
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    store = dist.FileStore(path, ranks)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=_TIMEOUT_S)
    )
    value = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(value)
    expected = ranks * (ranks + 1) / 2
    if not bool((value == expected).all()):
        raise RuntimeError(f"rank {rank}: the sum is {value[0].item()} instead of {expected}")
    dist.destroy_process_group()


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    found = gather()
    checks = judge(found, gpus=options.gpus, efa=options.efa)
    if "error" not in found["torch"]:
        checks.append(all_reduce(options.ranks, gpus=len(found["torch"]["gpus"])))
    failed = [name for name, outcome, _ in checks if outcome == FAILED]
    if options.json:
        rows = [{"name": name, "outcome": outcome, "detail": detail} for name, outcome, detail in checks]
        print(json.dumps({"facts": found, "checks": rows, "failed": failed}, indent=2))
    else:
        for name, outcome, detail in checks:
            print(f"{name:<14} {outcome:<7} {detail}".rstrip())
        for name, value in found["settings"].items():
            print(f"{'variable':<14} {'':<7} {name}={value}")
    if failed:
        print(f"error: {len(failed)} checks failed: {', '.join(failed)}", file=sys.stderr)
    return _FINDINGS if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
