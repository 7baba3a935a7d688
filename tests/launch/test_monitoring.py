"""Monitoring files with the real Prometheus programs: rules, configurations, an alert to a webhook."""

import http.server
import json
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.wait import until
from tests.support.rehearsal import EAST, KEY, Clients, served
from tests.unit.test_observability import expressions, generated, program

pytestmark = pytest.mark.launch

FOLDER = "observability"
BOUND_S = 90
# Answers of the programs of Slurm.
SLURM = {
    "sinfo": """case "$*" in *Node*) printf 'n1 gpu:h100:8 gpu:h100:8\\nn2 gpu:h100:8 gpu:h100:0\\n' ;;
*) printf 'p5|allocated|1\\np5|idle|1\\n' ;; esac""",
    "squeue": "printf 'p5|RUNNING|1\\np5|PENDING|2\\n'",
}
# Counter file of the EFA driver → its increase for each step.
EFA = {
    **dict.fromkeys(("tx_bytes", "rx_bytes", "rdma_read_bytes", "rdma_write_bytes"), 10**9),
    **dict.fromkeys(("retrans_pkts", "retrans_timeout_events", "rx_drops"), 1),
}
# Field of DCGM → its value; the other fields count the steps.
GPU = {
    "DCGM_FI_DEV_GPU_UTIL": 97,
    "DCGM_FI_DEV_FB_USED": 61440,
    "DCGM_FI_DEV_FB_FREE": 20480,
    "DCGM_FI_DEV_GPU_TEMP": 61,
    "DCGM_FI_DEV_POWER_USAGE": 644,
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": 0.55,
    "DCGM_FI_PROF_NVLINK_TX_BYTES": 2.1e11,
    "DCGM_FI_PROF_NVLINK_RX_BYTES": 2.2e11,
    "DCGM_FI_DEV_XID_ERRORS": 94,
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0,
}


def run(*words: str | Path, cwd: Path | None = None, variables: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        words, cwd=cwd, env=variables, capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_tests_of_the_alert_rules_pass(root: Path) -> None:
    for path in sorted((root / FOLDER / "prometheus/tests").glob("*.yml")):
        assert "SUCCESS" in run("promtool", "test", "rules", path)


def test_expressions_of_rules_and_panels_are_valid(root: Path, tmp_path: Path) -> None:
    variables = ("node", "partition", "run")
    texts = [program(root, "preview").expression(text, variables) for _, text in expressions(root)]
    rules = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(texts)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(texts)} rules found" in run("promtool", "check", "rules", path)


def test_monitoring_configurations_are_valid(root: Path) -> None:
    # Debian's promtool is built without Kubernetes service discovery.
    run("promtool", "check", "config", "ec2.yml", cwd=root / FOLDER / "prometheus")
    run("amtool", "check-config", root / FOLDER / "alertmanager/alertmanager.yml")


@pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="capability absent: no kubectl program; Ubuntu has no package of it",
)
def test_kustomize_can_build_the_monitoring_files(root: Path) -> None:
    documents = list(yaml.safe_load_all(run("kubectl", "kustomize", root / FOLDER)))
    maps = [document for document in documents if document["kind"] == "ConfigMap"]
    assert sorted(document["metadata"]["name"].rpartition("-")[0] for document in maps) == sorted(
        generated(root)
    )
    assert {document["metadata"].get("namespace") for document in maps} == {"monitoring"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _started(log: Path, *words: str | Path) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen([str(word) for word in words], stdout=file, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(BOUND_S)


@contextmanager
def _serving(address: tuple[str, int], handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve HTTP in a thread; yield the port."""
    with http.server.ThreadingHTTPServer(address, handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the URL of a webhook and the list of messages that the webhook receives."""
    messages: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _serving(("127.0.0.1", 0), Handler) as port:
        yield f"http://127.0.0.1:{port}/alerts", messages


class Node:
    """A node with a GPU exporter, an EFA exporter and node_exporter; `advance` changes all numbers.

    The numbers of GPUs, EFA devices, Slurm and the training run are generated. The numbers of processors,
    memory and file systems are those of this machine.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.steps = 0
        self.ports = {job: _free_port() for job in ("gpu", "efa", "node")}
        self._metrics = root / FOLDER / "textfile/metrics.py"
        self._fields = [
            line.split(", ")[0]
            for line in (root / "ansible/roles/dcgm_exporter/files/counters.csv").read_text().splitlines()
            if ", gauge," in line or ", counter," in line
        ]
        self.sysfs, self.samples, self._slurm = folder / "sys", folder / "samples", folder / "slurm"
        self._log = folder / "pretrain.jsonl"
        device = self.sysfs / "class/infiniband/rdmap0s6"
        self.counters = device / "ports/1/hw_counters"
        for made in (self.sysfs / "bus/pci/drivers/efa", device / "device", self.counters):
            made.mkdir(parents=True)
        (device / "device/driver").symlink_to(self.sysfs / "bus/pci/drivers/efa")
        (self.counters / "unresponsive_remote_events").write_text("0\n")
        for made in (self.samples, self._slurm):
            made.mkdir()
        for name, text in SLURM.items():
            (self._slurm / name).write_text(f"#!/bin/sh\n{text}\n")
            (self._slurm / name).chmod(0o755)

    def advance(self) -> None:
        self.steps += 1
        for name, bytes_or_events in EFA.items():
            (self.counters / name).write_text(f"{self.steps * bytes_or_events}\n")
        report = {"step": self.steps, "restart": 0, "loss": 2 + 8 / self.steps, "seconds": 0.5}
        with self._log.open("a") as file:
            file.write(json.dumps(report | {"throughput": 4096 - 512 / self.steps}) + "\n")
        path = {"PATH": f"{self._slurm}:/usr/bin:/bin"}
        for words in (("slurm",), ("training", f"--run=pretrain={self._log}")):
            output = f"--output={self.samples}/{words[0]}.prom"
            run(sys.executable, self._metrics, *words, output, variables=path)

    def gpu_samples(self) -> str:
        """Return the samples of dcgm-exporter for two GPUs; all but the fields of GPU count the steps."""
        lines = []
        for name in self._fields:
            lines += [f'{name}{{gpu="{gpu}"}} {GPU.get(name, self.steps)}' for gpu in (0, 1)]
        return "\n".join([*lines, ""])

    def exporters(self, root: Path) -> Iterator[tuple[str, tuple[str | Path, ...]]]:
        """Yield the name and the command of each exporter that is a program."""
        script = root / "ansible/roles/efa_exporter/files/efa_exporter.py"
        yield "efa", (sys.executable, script, "--port", str(self.ports["efa"]), "--sysfs", self.sysfs)
        address = f"--web.listen-address=127.0.0.1:{self.ports['node']}"
        yield (
            "node",
            ("prometheus-node-exporter", address, f"--collector.textfile.directory={self.samples}"),
        )


@contextmanager
def _gpu_exporter(node: Node) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(node.gpu_samples().encode())

        def log_message(self, *_: object) -> None:
            pass

    with _serving(("127.0.0.1", node.ports["gpu"]), Handler):
        yield


def _prometheus(
    root: Path, folder: Path, *, endpoint: str, exporters: Mapping[str, int], alertmanager: int
) -> Path:
    """Write the Prometheus configuration for EC2 with test addresses and 1 s intervals; return its path."""
    shutil.copytree(root / FOLDER / "prometheus/rules", folder / "rules")
    table = yaml.safe_load((root / FOLDER / "prometheus/ec2.yml").read_text(encoding="utf-8"))
    table["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    table["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    for job in table["scrape_configs"]:
        for discovery in job["ec2_sd_configs"]:
            discovery |= {
                "endpoint": endpoint,
                "region": EAST,
                "access_key": KEY.access,
                "secret_key": KEY.secret,
                "refresh_interval": "1s",
            }
        address = f"127.0.0.1:{exporters[job['job_name']]}"
        job["relabel_configs"] = [
            *job["relabel_configs"],
            {"replacement": address, "target_label": "__address__"},
        ]
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(table))
    return path


def _alertmanager(root: Path, folder: Path, url: str) -> Path:
    table = yaml.safe_load((root / FOLDER / "alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    table["receivers"][0]["webhook_configs"][0]["url"] = url
    table["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    path = folder / "alertmanager.yml"
    path.write_text(json.dumps(table))
    return path


def _value(prometheus: int, query: str) -> dict[str, Any] | None:
    url = f"http://127.0.0.1:{prometheus}/api/v1/query?query={query}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
    except (urllib.error.URLError, ConnectionError):
        return None
    return found[0] if found else None


def _wait(condition: Callable[[], object]) -> Any:
    found = until(condition, timeout_s=BOUND_S, every_s=0.2)
    assert found
    return found


@contextmanager
def monitored(root: Path, folder: Path) -> Iterator[tuple[Node, int, list[dict[str, Any]]]]:
    """Yield a node of a rehearsed EC2 account, the port of its Prometheus, and the messages of a webhook."""
    node, prometheus, alertmanager = Node(root, folder), _free_port(), _free_port()
    with ExitStack() as stack:
        cloud = stack.enter_context(served(folder / "cloud"))
        tags = [{"Key": "factory:architecture", "Value": "batch"}, {"Key": "Name", "Value": "node-1"}]
        Clients(cloud.endpoint).run(
            InstanceType="p5.48xlarge", TagSpecifications=[{"ResourceType": "instance", "Tags": tags}]
        )
        url, messages = stack.enter_context(_webhook())
        stack.enter_context(_gpu_exporter(node))
        config = _prometheus(
            root, folder, endpoint=cloud.endpoint, exporters=node.ports, alertmanager=alertmanager
        )
        alerts = _alertmanager(root, folder, url)
        for name, words in (
            *node.exporters(root),
            (
                "alertmanager",
                (
                    "prometheus-alertmanager",
                    f"--config.file={alerts}",
                    f"--storage.path={folder}/alertmanager",
                    f"--web.listen-address=127.0.0.1:{alertmanager}",
                    "--cluster.listen-address=",
                ),
            ),
            (
                "prometheus",
                (
                    "prometheus",
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address=127.0.0.1:{prometheus}",
                ),
            ),
        ):
            stack.enter_context(_started(folder / f"{name}.log", *words))
        yield node, prometheus, messages


def message_with(names: set[str], messages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the alerts, by name, of the first message that has all these alerts; empty without a message."""
    for message in list(messages):
        alerts = {alert["labels"]["alertname"]: alert for alert in message["alerts"]}
        if names <= set(alerts):
            return alerts
    return {}


def test_panels_have_data_and_a_counter_of_a_discovered_instance_triggers_a_webhook_message(
    root: Path, tmp_path: Path
) -> None:
    boards = [json.loads(path.read_text()) for path in (root / FOLDER / "grafana/dashboards").glob("*.json")]
    panels = [panel["title"] for board in boards for panel in board["panels"]]
    with monitored(root, tmp_path) as (node, prometheus, messages):
        words = (sys.executable, root / FOLDER / "preview.py", f"http://127.0.0.1:{prometheus}")

        def empty_panels() -> list[str]:
            """Return the titles of the panels without data, after a change of all numbers."""
            node.advance()
            (_, *figures) = run(*words, "--minutes", "5").split("<figure>")
            titles = [figure.partition("<b>")[2].partition("</b>")[0] for figure in figures]
            assert sorted(titles) == sorted(panels)
            return [title for title, figure in zip(titles, figures, strict=True) if "<polyline" not in figure]

        labels = _wait(lambda: _value(prometheus, "node_amazonefa_unresponsive_remote_events"))["metric"]
        assert (labels["node"], labels["instance_type"]) == ("node-1", "p5.48xlarge")
        # A container may have only file systems that the panel "Space in use" leaves out.
        _wait(lambda: set(empty_panels()) <= {"Space in use"})
        (node.counters / "unresponsive_remote_events").write_text("3\n")
        # The exporters of EFA and of the GPUs have different ports, but the alerts of a node are one message.
        names = {"EfaUnresponsivePeers", "NvLinkRecoveries"}
        alerts = _wait(lambda: message_with(names, messages))
    summary = alerts["EfaUnresponsivePeers"]["annotations"]["summary"]
    assert summary == f"A peer of rdmap0s6 of {labels['instance']} does not answer"
