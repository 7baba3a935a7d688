"""Ports and start conditions of the Prometheus exporters."""

from pathlib import Path

import pytest
import yaml

PORTS = {"node_exporter": 9100, "efa_exporter": 9109, "dcgm_exporter": 9400, "neuron_monitor": 8000}


def test_every_exporter_has_its_own_port(root: Path) -> None:
    ports = {}
    for path in sorted((root / "ansible/roles").glob("*/defaults/main.yml")):
        role = path.parents[1].name
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        if f"{role}_port" in values:
            ports[role] = values[f"{role}_port"]
    assert ports == PORTS
    assert len(set(ports.values())) == len(ports)


def lines_starting_with(path: Path, word: str) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(word)]


@pytest.mark.parametrize("role", sorted(PORTS.keys() - {"node_exporter"}))
def test_path_unit_of_an_exporter_watches_the_path_that_the_service_requires(root: Path, role: str) -> None:
    # If the two paths differ, systemd starts the service in a loop, and ConditionPathExists fails each time.
    templates = root / "ansible/roles" / role / "templates"
    (path,) = templates.glob("*.path.j2")
    (service,) = (file for file in templates.glob("*.j2") if file != path)
    conditions = lines_starting_with(service, "ConditionPathExists")
    assert len(conditions) == 1
    assert conditions == [f"Condition{line}" for line in lines_starting_with(path, "PathExists")]
