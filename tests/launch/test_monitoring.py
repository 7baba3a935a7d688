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
from collections.abc import Callable, Iterator
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


def run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=BOUND_S, check=False)
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

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", messages
    finally:
        server.shutdown()
        thread.join()


def _sysfs(folder: Path) -> Path:
    """Create a sysfs tree with one EFA device; return its counter file unresponsive_remote_events."""
    device = folder / "class/infiniband/rdmap0s6"
    (folder / "bus/pci/drivers/efa").mkdir(parents=True)
    (device / "device").mkdir(parents=True)
    (device / "device/driver").symlink_to(folder / "bus/pci/drivers/efa")
    counters = device / "ports/1/hw_counters"
    counters.mkdir(parents=True)
    (counters / "unresponsive_remote_events").write_text("0\n")
    return counters / "unresponsive_remote_events"


def _prometheus(root: Path, folder: Path, *, endpoint: str, exporter: int, alertmanager: int) -> Path:
    """Write the Prometheus configuration for EC2 with test addresses and 1 s intervals; return its path."""
    shutil.copytree(root / FOLDER / "prometheus/rules", folder / "rules")
    table = yaml.safe_load((root / FOLDER / "prometheus/ec2.yml").read_text(encoding="utf-8"))
    table["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    table["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    table["scrape_configs"] = [job for job in table["scrape_configs"] if job["job_name"] == "efa"]
    for job in table["scrape_configs"]:
        for discovery in job["ec2_sd_configs"]:
            discovery |= {
                "endpoint": endpoint,
                "region": EAST,
                "access_key": KEY.access,
                "secret_key": KEY.secret,
                "refresh_interval": "1s",
            }
        job["relabel_configs"].append({"replacement": f"127.0.0.1:{exporter}", "target_label": "__address__"})
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(table))
    return path


def _alertmanager(root: Path, folder: Path, url: str) -> Path:
    table = yaml.safe_load((root / FOLDER / "alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    table["receivers"][0]["webhook_configs"][0]["url"] = url
    table["route"]["group_wait"] = "1s"
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


def test_a_counter_of_a_discovered_instance_triggers_a_webhook_message(root: Path, tmp_path: Path) -> None:
    exporter, prometheus, alertmanager = _free_port(), _free_port(), _free_port()
    counter = _sysfs(tmp_path / "sys")
    program = root / "ansible/roles/efa_exporter/files/efa_exporter.py"
    with ExitStack() as stack:
        cloud = stack.enter_context(served(tmp_path / "cloud"))
        tags = [{"Key": "factory:architecture", "Value": "batch"}, {"Key": "Name", "Value": "node-1"}]
        Clients(cloud.endpoint).run(
            InstanceType="p5.48xlarge", TagSpecifications=[{"ResourceType": "instance", "Tags": tags}]
        )
        url, messages = stack.enter_context(_webhook())
        config = _prometheus(
            root, tmp_path, endpoint=cloud.endpoint, exporter=exporter, alertmanager=alertmanager
        )
        for name, words in {
            "exporter": (sys.executable, program, "--port", exporter, "--sysfs", tmp_path / "sys"),
            "alertmanager": (
                "prometheus-alertmanager",
                f"--config.file={_alertmanager(root, tmp_path, url)}",
                f"--storage.path={tmp_path}/alertmanager",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ),
            "prometheus": (
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path}/data",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ),
        }.items():
            stack.enter_context(_started(tmp_path / f"{name}.log", *map(str, words)))
        metric = "node_amazonefa_unresponsive_remote_events"
        sample = _wait(lambda: _value(prometheus, metric))
        assert (sample["metric"]["node"], sample["metric"]["instance_type"]) == ("node-1", "p5.48xlarge")
        preview = run(
            sys.executable, root / FOLDER / "preview.py", f"http://127.0.0.1:{prometheus}", "--minutes", "5"
        )
        (tmp_path / "preview.html").write_text(preview)  # to look at
        assert preview.count("<polyline") >= 1
        counter.write_text("3\n")
        message = _wait(lambda: next(iter(messages), None))
    (alert,) = message["alerts"]
    assert alert["labels"]["alertname"] == "EfaUnresponsivePeers"
    assert alert["annotations"]["summary"].startswith("A peer of rdmap0s6 of 127.0.0.1:")
