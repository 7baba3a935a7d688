"""Monitoring files: metrics of panels and alerts are exported; alerts are tested to fire and not to fire."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from builder.app import monitoring_values
from tests.support.cloudformation import walk
from tests.support.launch_schemas import KUBERNETES
from tests.support.stub_server import Asked, Stub, serving

# Hardware counters of the EFA driver (EFA 1.43), which the EFA exporter serves unchanged.
EFA_COUNTERS = """
    lifespan rx_bytes rx_drops rx_pkts tx_bytes tx_pkts send_bytes send_wrs recv_bytes recv_wrs
    rdma_read_bytes rdma_read_resp_bytes rdma_read_wrs rdma_read_wr_err
    rdma_write_bytes rdma_write_recv_bytes rdma_write_wrs rdma_write_wr_err
    retrans_bytes retrans_pkts retrans_timeout_events impaired_remote_conn_events unresponsive_remote_events
"""
# Metrics of node_exporter's default collectors, and `up`, which Prometheus adds for every target.
NODE = {
    "up",
    "node_cpu_seconds_total",
    "node_filesystem_avail_bytes",
    "node_filesystem_size_bytes",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
}
FOLDER = "observability"
METRIC = re.compile(r"\b(?:DCGM_FI_\w+|(?:node|slurm|training)_\w+|up)\b(?=\s*[{\[\s)=><+/-]|$)")


def exported(root: Path) -> set[str]:
    lines = (root / "ansible/roles/dcgm_exporter/files/counters.csv").read_text(encoding="utf-8").splitlines()
    gpu = {line.split(",")[0] for line in lines if line and not line.startswith("#")}
    own = {"info", "unreadable_counters"}
    efa = {f"node_amazonefa_{name}" for name in (*EFA_COUNTERS.split(), *own)}
    return gpu | NODE | efa | set(program(root, "textfile/metrics").METRICS)


def program(root: Path, name: str) -> ModuleType:
    """Import a Python program of the folder observability/."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), root / FOLDER / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expressions(root: Path) -> Iterator[tuple[str, str]]:
    """Yield file and PromQL expression of every alert, recording rule and dashboard panel."""
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


def test_every_metric_of_panels_and_rules_is_exported(root: Path) -> None:
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
def test_metric_names_are_found_in_promql_expressions(text: str, names: set[str]) -> None:
    assert named(text) == names


def alerts(root: Path) -> dict[str, dict[str, Any]]:
    return {
        rule["alert"]: rule
        for path in (root / FOLDER / "prometheus/rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def test_every_alert_has_a_test_that_fires_it_and_a_test_that_does_not(root: Path) -> None:
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


def test_prometheus_scrapes_the_default_ports_of_the_exporters(root: Path) -> None:
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


def test_dashboards_have_unique_ids_and_the_provisioned_data_source(root: Path) -> None:
    found = boards(root)
    assert len({board["uid"] for board in found}) == len(found)
    source = (root / FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    (provisioned,) = yaml.safe_load(source)["datasources"]
    for board in found:
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        assert {panel["datasource"]["uid"] for panel in board["panels"]} == {provisioned["uid"]}


def test_compose_file_requires_image_names_from_the_user(root: Path) -> None:
    """The user chooses the releases of the monitoring images by digest, because tags move."""
    services = yaml.safe_load((root / FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for name, service in services.items():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:\?must name an image by digest\}", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name


def kustomization(root: Path) -> dict[str, Any]:
    text = (root / FOLDER / "kustomization.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def generated(root: Path) -> dict[str, dict[str, Path]]:
    """Return the files of the Kubernetes config maps that kustomize generates: name → key → file."""
    found = {}
    for entry in kustomization(root)["configMapGenerator"]:
        pairs = [file.rpartition("=")[::2] for file in entry["files"]]
        found[entry["name"]] = {key.rstrip("=") or Path(file).name: Path(file) for key, file in pairs}
    return found


def test_kustomization_has_every_rule_and_dashboard(root: Path) -> None:
    folder, maps = root / FOLDER, generated(root)
    for name, pattern in (
        ("rules", "prometheus/rules/*.yml"),
        ("grafana-dashboards", "grafana/dashboards/*.json"),
    ):
        assert sorted(maps[name]) == sorted(path.name for path in folder.glob(pattern))
    for files in maps.values():
        assert [path for path in files.values() if not (folder / path).is_file()] == []


def test_objects_of_the_kustomization_are_valid(root: Path) -> None:
    maps, used = generated(root), set()
    for name in kustomization(root)["resources"]:
        for document in yaml.safe_load_all((root / FOLDER / name).read_text(encoding="utf-8")):
            validate(document, KUBERNETES, strict=True)
            used |= {value["name"] for key, value in walk(document) if key == "configMap"}
            for key, value in walk(document):
                if key == "template":
                    (container,) = value["spec"]["containers"]
                    assert container["securityContext"]["allowPrivilegeEscalation"] is False
                    # Placeholder image name: the user replaces it with an image of a chosen release.
                    assert container["image"] == container["name"]
    assert used == set(maps)


def test_generated_values_of_the_helm_chart_are_current(root: Path) -> None:
    """To update them, run python -m builder.app.monitoring_values."""
    text = (root / monitoring_values.PAGE).read_text(encoding="utf-8")
    assert text == monitoring_values.page(root)
    values = json.loads(text)
    assert set(values["grafana"]["dashboards"]["factory"]) == {"efa", "gpu", "node", "slurm", "training"}
    rules = values["additionalPrometheusRulesMap"].values()
    assert {
        rule["alert"]
        for table in rules
        for group in table["groups"]
        for rule in group["rules"]
        if "alert" in rule
    } == set(alerts(root))


SINFO = """\
case "$*" in
*--Node*) printf '%-100s%-100s%s\\n' n1 gpu:h100:8'(S:0-1)' 'gpu:h100:6(IDX:0-5)' n2 '(null)' gpu:0 ;;
*) printf 'p5|idle|1\\np5|down*|2\\np5|down|1\\nall|mixed~|3\\n' ;;
esac
"""


def text_metrics(root: Path, path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run textfile/metrics.py with the fake programs in a folder on PATH."""
    command = [sys.executable, root / FOLDER / "textfile/metrics.py", *words]
    environment = {"PATH": f"{path}:{os.environ['PATH']}"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_textfile_metrics_of_slurm_nodes_and_jobs(root: Path, tmp_path: Path) -> None:
    for name, body in (
        ("sinfo", SINFO),
        ("squeue", "printf 'p5|PENDING|4\\np5|PENDING|2\\np5|RUNNING|1\\n'"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = text_metrics(root, tmp_path, "slurm", "--output", f"{tmp_path}/slurm.prom")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    samples = [line for line in (tmp_path / "slurm.prom").read_text().splitlines() if line[0] != "#"]
    assert samples == [
        "slurm_up 1",
        'slurm_nodes{partition="all",state="mixed"} 3',
        'slurm_nodes{partition="p5",state="down"} 3',
        'slurm_nodes{partition="p5",state="idle"} 1',
        'slurm_jobs{partition="p5",state="pending"} 2',
        'slurm_jobs{partition="p5",state="running"} 1',
        'slurm_job_nodes{partition="p5",state="pending"} 6',
        'slurm_job_nodes{partition="p5",state="running"} 1',
        'slurm_gpus{slurm_node="n1"} 8',
        'slurm_gpus_allocated{slurm_node="n1"} 6',
    ]
    (tmp_path / "sinfo").write_text("#!/bin/sh\nexit 1\n")
    done = text_metrics(root, tmp_path, "slurm")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "slurm_up 0")
    assert done.stderr.startswith("error: ")
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'p5|idle|1K'\n")
    done = text_metrics(root, tmp_path, "slurm")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "slurm_up 0")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sinfo", "slurm.prom", "squeue"]


def test_textfile_metrics_of_a_training_run(root: Path, tmp_path: Path) -> None:
    report = {"restart": 1, "step": 20, "loss": 2.5, "seconds": 0.25, "throughput": 4096.0}
    lines = [json.dumps(report | {"step": step}) for step in (10, 20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + '\n{"restart": 1, "st')
    (tmp_path / "b.jsonl").write_text("no\n")
    runs = [f"--run={name}={tmp_path}/{name}.jsonl" for name in "abc"]
    done = text_metrics(root, tmp_path, "training", *runs)
    samples = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if line[0] != "#")
    changed_s = float(samples.pop('training_report_timestamp_seconds{run="a"}'))
    assert abs(changed_s - (tmp_path / "a.jsonl").stat().st_mtime) < 1e-3
    assert samples == {
        'training_step{run="a"}': "20",
        'training_restart{run="a"}': "1",
        'training_loss{run="a"}': "2.5",
        'training_step_seconds{run="a"}': "0.25",
        'training_throughput{run="a"}': "4096",
    }
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == [
        f"{tmp_path}/b.jsonl",
        f"{tmp_path}/c.jsonl",
    ]
    for words in (("training",), ("slurm", "--run", "a=b"), ("training", "--run", "a")):
        assert text_metrics(root, tmp_path, *words).returncode == 2


def test_dashboard_preview_draws_the_panels_that_have_data(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        values = [[1, "2"], [2, "NaN"], [3, "4"]] if "training_loss" in asked.line else []
        result = [{"metric": {"run": "<a>"}, "values": values}] if values else []
        return 200, {}, json.dumps({"data": {"result": result}}).encode()

    preview = program(root, "preview")
    with serving(Stub(answer=answer)) as server:
        assert preview.main([f"http://{server.host}"]) == 0
    text = capsys.readouterr().out
    panels = len([panel for board in boards(root) for panel in board["panels"]])
    assert text.count("<figure>") == panels
    assert (text.count("<polyline"), text.count("no data")) == (1, panels - 1)
    assert "&lt;a&gt;: 4" in text
    assert not any("$" in asked.line for asked in server.asked)
    with pytest.raises(SystemExit) as caught:
        preview.main([f"http://{server.host}"])
    assert caught.value.code == 3
    assert capsys.readouterr().err.startswith(f"error: http://{server.host}: ")


def boards(root: Path) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((root / FOLDER / "grafana/dashboards").glob("*.json"))
    ]
