"""Check the GPUs, links and EFA devices of this machine, and exit with 5 if one is unhealthy.

Level 1 takes seconds and disturbs no job: it is for Slurm's prolog and epilog and for a DaemonSet. Level 2
runs DCGM's short diagnostics, level 3 its long ones and a bandwidth test; both need idle GPUs.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import probes

PASSED, FAILED, ABSENT = "passed", "failed", "absent"
# What to do about a failed check, from the least to the most severe.
SEVERITIES = ("monitor", "reset", "reboot", "isolate")
_FINDINGS = 5
_DIAGNOSTICS_S = {2: 900, 3: 5400}
_LOCKED_BYTES = 16 << 30  # EFA registers this much memory of a process


@dataclass(frozen=True)
class Check:
    """Result of one check; the severity counts only if the check failed."""

    name: str
    outcome: str
    detail: str
    severity: str = "monitor"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="healthcheck.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--level", type=int, choices=(1, 2, 3), default=1, help="(default: 1)")
    parser.add_argument("--instance", metavar="TYPE", help="EC2 type (default: that of this machine)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--fail-on",
        choices=SEVERITIES,
        default="reset",
        metavar="SEVERITY",
        help=f"least severity that fails: {', '.join(SEVERITIES)} (default: %(default)s)",
    )
    parser.add_argument(
        "--every", type=int, metavar="SECONDS", help="repeat the checks until one of them fails"
    )
    parser.add_argument("--kernel-log", type=Path, metavar="FILE", help="(default: that of this boot)")
    parser.add_argument("--sys", type=Path, default=Path("/sys"), metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def expectations(instance: str) -> Mapping[str, float]:
    """Return the counts and bandwidths of an EC2 type; nothing for an unknown type."""
    path = Path(__file__).with_name("expected.json")
    table: Mapping[str, Mapping[str, float]] = json.loads(path.read_text(encoding="utf-8"))
    return table.get(instance, {})


def examine(options: argparse.Namespace, expected: Mapping[str, float]) -> list[Check]:
    """Run the checks of the level, the quick ones first."""
    checks = [
        *gpu_checks(expected),
        xid_check(kernel_log(options.kernel_log)),
        *efa_checks(options.sys, expected),
    ]
    if options.level > 1:
        checks += diagnostic_checks(options.level)
    if options.level > 2:
        checks.append(bandwidth_check(expected))
    return checks


def gpu_checks(expected: Mapping[str, float]) -> list[Check]:
    text = probes.output("nvidia-smi", f"--query-gpu={probes.GPU_FIELDS}", "--format=csv,noheader")
    found, wanted = probes.gpus(text or ""), int(expected.get("gpus", 0))
    if not found:
        detail = "no nvidia-smi" if text is None else "nvidia-smi lists none"
        outcome = FAILED if wanted else ABSENT
        return [Check("gpus", outcome, f"{detail}; {wanted} expected" if wanted else detail, "isolate")]
    names = ", ".join(sorted({gpu.name for gpu in found}))
    count = f"{len(found)} x {names}" + (f"; {wanted} expected" if wanted else "")
    outcome = FAILED if wanted and len(found) != wanted else PASSED
    damaged = [gpu.index for gpu in found if gpu.uncorrected]
    idle = [gpu.index for gpu in found if not gpu.is_persistent]
    return [
        Check("gpus", outcome, count, "isolate"),
        _of_gpus("memory errors", damaged, "uncorrected errors", "reset"),
        _of_gpus("persistence", idle, "persistence mode is off", "monitor"),
        row_check(),
        link_check(expected),
    ]


def _of_gpus(name: str, gpus: Sequence[str], problem: str, severity: str) -> Check:
    if not gpus:
        return Check(name, PASSED, "none" if name == "memory errors" else "on")
    return Check(name, FAILED, f"{problem}: GPU {', '.join(gpus)}", severity)


def row_check() -> Check:
    text = probes.output("nvidia-smi", f"--query-remapped-rows={probes.ROW_FIELDS}", "--format=csv,noheader")
    found = probes.remapped_rows(text or "")
    severity = "isolate" if any(state == "failed" for _, state in found) else "reset"
    detail = ", ".join(f"{gpu}: {state}" for gpu, state in found) or "none"
    return Check("remapped rows", FAILED if found else PASSED, detail, severity)


def link_check(expected: Mapping[str, float]) -> Check:
    found, wanted = (
        probes.links(probes.output("nvidia-smi", "nvlink", "-s") or ""),
        int(expected.get("nvlinks", 0)),
    )
    down = {gpu: count for gpu, count in found.items() if count < wanted}
    if down or (wanted and not found):
        detail = ", ".join(f"GPU {gpu}: {count}" for gpu, count in down.items()) or "none"
        return Check("nvlink", FAILED, f"{detail}; {wanted} per GPU expected", "reboot")
    active = sum(found.values())
    return Check("nvlink", PASSED if active else ABSENT, f"{active} links")


def kernel_log(path: Path | None) -> str | None:
    if path:
        return path.read_text(encoding="utf-8", errors="replace")
    journal = probes.output("journalctl", "--dmesg", "--boot", "--no-pager", "--output=cat")
    return journal or probes.output("dmesg") or None


def xid_check(log: str | None) -> Check:
    if log is None:
        return Check("xid", ABSENT, "the kernel log cannot be read")
    found = probes.xids(log)
    actions = [probes.action_of(number) for _, number in found]
    worst = max(actions, key=SEVERITIES.index, default="monitor")
    detail = ", ".join(f"{number} on {gpu}" for gpu, number in dict.fromkeys(found)) or "none"
    return Check("xid", FAILED if found else PASSED, detail, worst)


def efa_checks(sysfs: Path, expected: Mapping[str, float]) -> list[Check]:
    found, wanted = probes.efa_devices(sysfs), int(expected.get("efa", 0))
    detail = f"{len(found)} devices" + (f"; {wanted} expected" if wanted else "")
    if len(found) < wanted:
        return [Check("efa", FAILED, detail, "isolate")]
    if not found:
        return [Check("efa", ABSENT, detail)]
    down = [name for name, state in found.items() if state not in ("ACTIVE", "")]
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    is_enough = limit == resource.RLIM_INFINITY or limit >= _LOCKED_BYTES
    text = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} bytes"
    return [
        Check(
            "efa", FAILED if down else PASSED, f"not active: {', '.join(down)}" if down else detail, "reboot"
        ),
        Check("locked memory", PASSED if is_enough else FAILED, text),
    ]


def diagnostic_checks(level: int) -> list[Check]:
    text = probes.output("dcgmi", "diag", "--run", str(level), "--json", timeout_s=_DIAGNOSTICS_S[level])
    if text is None:
        return [Check("dcgm", ABSENT, "no dcgmi")]
    found = probes.diagnostics(text)
    if not found:
        return [Check("dcgm", FAILED, text.strip()[:200] or "dcgmi failed or took too long", "reboot")]
    outcomes = {"pass": PASSED, "skip": ABSENT}
    return [
        Check(
            f"dcgm {name}",
            outcomes.get(status.lower(), FAILED),
            status,
            "monitor" if status == "Warn" else "isolate",
        )
        for name, status in found
    ]


def bandwidth_check(expected: Mapping[str, float]) -> Check:
    gpus, least = int(expected.get("gpus", 0)), expected.get("busbw_one_node_gb_s", 0.0)
    if gpus < 2 or not least:
        return Check("bandwidth", ABSENT, "no expected bandwidth of this type")
    words = ("all_reduce_perf", "-b", "1G", "-e", "2G", "-f", "2", "-n", "20", "-g", str(gpus))
    text = probes.output(*words, timeout_s=600)
    if text is None:
        return Check("bandwidth", ABSENT, "no all_reduce_perf")
    found, is_right = probes.bandwidth(text)
    detail = f"{found:g} GB/s; at least {least:g} expected" + ("" if is_right else "; wrong results")
    return Check("bandwidth", PASSED if is_right and found >= least else FAILED, detail, "isolate")


def verdict(checks: Sequence[Check], fail_on: str) -> str:
    """Return the severest action of failures from `fail_on` up, "not a GPU machine", or "" for neither."""
    failed = [check.severity for check in checks if check.outcome == FAILED]
    severe = [name for name in failed if SEVERITIES.index(name) >= SEVERITIES.index(fail_on)]
    if severe:
        return max(severe, key=SEVERITIES.index)
    return "not a GPU machine" if checks[0].outcome == ABSENT else ""


def report(checks: Sequence[Check], instance: str, action: str, *, as_json: bool) -> None:
    if as_json:
        rows = [asdict(check) for check in checks]
        healthy = action not in SEVERITIES
        print(
            json.dumps({"instance": instance, "healthy": healthy, "action": action, "checks": rows}),
            flush=True,
        )
        return
    for check in checks:
        severity = f" ({check.severity})" if check.outcome == FAILED else ""
        print(f"{check.name:<16} {check.outcome:<7} {check.detail}{severity}")
    print(f"{instance or 'unknown type'}: {action or 'healthy'}", flush=True)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    instance = options.instance or probes.instance_type(options.sys)
    expected = expectations(instance)
    if options.instance and not expected:
        print(f"error: no expected values of type {instance}", file=sys.stderr)
        return 2
    while True:
        checks = examine(options, expected)
        action = verdict(checks, options.fail_on)
        report(checks, instance, action, as_json=options.json)
        if action in SEVERITIES:
            print(f"error: unhealthy: {action} this machine", file=sys.stderr)
            return _FINDINGS
        if not options.every:
            return 0
        time.sleep(options.every)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
