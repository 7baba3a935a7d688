"""Monitoring files: every metric of a panel or an alert is exported, and every alert has both tests."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cloudformation import walk

# Hardware counters of EFA's driver (EFA 1.43), which the exporter serves unchanged.
EFA_COUNTERS = """
    lifespan rx_bytes rx_drops rx_pkts tx_bytes tx_pkts send_bytes send_wrs recv_bytes recv_wrs
    rdma_read_bytes rdma_read_resp_bytes rdma_read_wrs rdma_read_wr_err
    rdma_write_bytes rdma_write_recv_bytes rdma_write_wrs rdma_write_wr_err
    retrans_bytes retrans_pkts retrans_timeout_events impaired_remote_conn_events unresponsive_remote_events
"""
# Metrics of node_exporter's default collectors, and the one that Prometheus makes for every target.
NODE = {
    "up",
    "node_cpu_seconds_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
}
FOLDER = "observability"
METRIC = re.compile(r"\b(?:DCGM_FI_\w+|node_\w+|up)\b(?=\s*[{\[\s)=><+/-]|$)")


def exported(root: Path) -> set[str]:
    lines = (root / "ansible/roles/dcgm_exporter/files/counters.csv").read_text(encoding="utf-8").splitlines()
    gpu = {line.split(",")[0] for line in lines if line and not line.startswith("#")}
    own = {"info", "unreadable_counters"}
    return gpu | NODE | {f"node_amazonefa_{name}" for name in (*EFA_COUNTERS.split(), *own)}


def expressions(root: Path) -> Iterator[tuple[str, str]]:
    """Yield file and expression of every alert, recording rule and panel."""
    for path in sorted((root / FOLDER / "prometheus/rules").glob("*.yml")):
        for key, value in walk(yaml.safe_load(path.read_text(encoding="utf-8"))):
            if key == "expr":
                yield path.name, value
    for path in sorted((root / FOLDER / "grafana/dashboards").glob("*.json")):
        for key, value in walk(json.loads(path.read_text(encoding="utf-8"))):
            if key == "expr":
                yield path.name, value


def named(expression: str) -> set[str]:
    return set(METRIC.findall(re.sub(r"\{[^}]*\}|by \([^)]*\)", " ", expression)))


def test_every_metric_is_exported(root: Path) -> None:
    found = list(expressions(root))
    assert len(found) > 30
    assert [text for _, text in found if not named(text)] == []
    known = exported(root)
    assert {f"{file}: {name}" for file, text in found for name in named(text) - known} == set()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sum by (node) (rate(node_amazonefa_rx_bytes[1m]))", {"node_amazonefa_rx_bytes"}),
        ("up == 0", {"up"}),
        ('A_b{up="1"} / DCGM_FI_DEV_X', {"DCGM_FI_DEV_X"}),
    ],
)
def test_names_of_metrics_are_found(text: str, names: set[str]) -> None:
    assert named(text) == names


def alerts(root: Path) -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for path in (root / FOLDER / "prometheus/rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not(root: Path) -> None:
    tested: dict[str, set[bool]] = {name: set() for name in alerts(root)}
    for path in (root / FOLDER / "prometheus/tests").glob("*.yml"):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in test["alert_rule_test"]:
                tested[case["alertname"]].add(bool(case["exp_alerts"]))
    assert tested == {name: {True, False} for name in alerts(root)}


def test_every_alert_says_what_to_do(root: Path) -> None:
    text = (root / FOLDER / "README.md").read_text(encoding="utf-8")
    for name, rule in alerts(root).items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert f"`{rule['labels']['action']}`" in text
        assert rule["annotations"]["summary"]


def test_targets_are_the_ports_of_the_exporters(root: Path) -> None:
    ports = {}
    for role, job in (("dcgm_exporter", "gpu"), ("efa_exporter", "efa"), ("node_exporter", "node")):
        text = (root / f"ansible/roles/{role}/defaults/main.yml").read_text(encoding="utf-8")
        ports[job] = yaml.safe_load(text)[f"{role}_port"]
    for name in ("ec2", "kubernetes"):
        text = (root / FOLDER / f"prometheus/{name}.yml").read_text(encoding="utf-8")
        for job in yaml.safe_load(text)["scrape_configs"]:
            port = ports.pop(job["job_name"]) if name == "kubernetes" else ports[job["job_name"]]
            assert str(port) in json.dumps(job)
    assert ports == {}


def test_dashboards_have_unique_ids_and_the_provisioned_source(root: Path) -> None:
    boards = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((root / FOLDER / "grafana/dashboards").glob("*.json"))
    ]
    assert len({board["uid"] for board in boards}) == len(boards)
    source = (root / FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    (provisioned,) = yaml.safe_load(source)["datasources"]
    for board in boards:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        assert {panel["datasource"]["uid"] for panel in board["panels"]} == {provisioned["uid"]}


def test_images_of_compose_are_named_by_the_user(root: Path) -> None:
    """Which releases are current is the user's decision, and a tag would move."""
    services = yaml.safe_load((root / FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for name, service in services.items():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:\?must name an image by digest\}", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
