#!/usr/bin/python3 -I
"""Serve the hardware counters of EFA devices to Prometheus.

Exports every counter of the driver, so that counters of new drivers are included, under the names that EFA
dashboards use. Uses only the standard library and runs on the oldest Python of the supported systems.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PREFIX = "node_amazonefa_"
# lifespan is not a counter but the driver's cache time in milliseconds.
GAUGES = frozenset({"lifespan"})
INFORMATION = ("board_id", "fw_ver", "hca_type")

Sample = tuple[str, dict[str, str], int]


def list_devices(root: Path) -> Iterator[Path]:
    """Yield the sysfs folders of EFA devices; other RDMA devices have their own exporters."""
    for device in sorted((root / "class/infiniband").glob("*")):
        driver = device / "device/driver"
        if driver.exists() and driver.resolve().name == "efa":
            yield device


def read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def read_counters(folder: Path, labels: dict[str, str]) -> Iterator[Sample]:
    unreadable = 0
    for path in sorted(folder.glob("*")):
        text = read_text(path)
        if text.lstrip("-").isdigit():
            yield path.name, labels, int(text)
        else:
            unreadable += 1
    # A missing counter looks like an unchanged counter; the metric unreadable_counters shows the difference.
    yield "unreadable_counters", labels, unreadable


def read_device(device: Path) -> Iterator[Sample]:
    name = {"device": device.name}
    yield "info", {**name, **{key: read_text(device / key) for key in INFORMATION}}, 1
    # Newer kernels have counters of the device in addition to the counters of each port.
    if (device / "hw_counters").is_dir():
        yield from read_counters(device / "hw_counters", name)
    for port in sorted((device / "ports").glob("*")):
        yield from read_counters(port / "hw_counters", {**name, "port": port.name})


def escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render(root: Path) -> str:
    """Return all samples in Prometheus' text format, grouped by metric name."""
    families: dict[str, list[Sample]] = {}
    for device in list_devices(root):
        for sample in read_device(device):
            families.setdefault(sample[0], []).append(sample)
    lines = []
    for name, samples in sorted(families.items()):
        kind = "gauge" if name in GAUGES | {"info", "unreadable_counters"} else "counter"
        lines.append(f"# HELP {PREFIX}{name} {name.replace('_', ' ')} of an EFA device.")
        lines.append(f"# TYPE {PREFIX}{name} {kind}")
        for _, labels, value in samples:
            words = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
            lines.append(f"{PREFIX}{name}{{{words}}} {value}")
    return "".join(f"{line}\n" for line in lines)


class Handler(BaseHTTPRequestHandler):
    """HTTP handler that reads the counters for every request."""

    root = Path("/sys")

    def do_GET(self) -> None:
        known = self.path.split("?")[0] in ("/", "/metrics")
        body = render(self.root).encode() if known else b"see /metrics\n"
        self.send_response(200 if known else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Log nothing: Prometheus scrapes every few seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the hardware counters of EFA devices to Prometheus.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="", help="address to listen on (default: all)")
    parser.add_argument("--sysfs", type=Path, default=Path("/sys"))
    parser.add_argument("--once", action="store_true", help="print the metrics and exit")
    options = parser.parse_args()
    if options.once:
        sys.stdout.write(render(options.sysfs))
        return
    Handler.root = options.sysfs
    ThreadingHTTPServer((options.address, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
