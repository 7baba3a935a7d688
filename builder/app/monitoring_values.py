"""Generate values for the chart kube-prometheus-stack: `python -m builder.app.monitoring_values`.

The values contain the scrape jobs, rules, routes and dashboards of `observability/`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLDER = Path("observability")
PAGE = FOLDER / "kubernetes" / "kube-prometheus-stack.json"


def page(root: Path) -> str:
    import yaml

    return json.dumps(_values(root / FOLDER, yaml.safe_load), indent=2) + "\n"


def _values(folder: Path, load: Any) -> dict[str, Any]:
    def read(path: Path) -> Any:
        return load(path.read_text(encoding="utf-8"))

    dashboards = {
        path.stem: {"json": path.read_text(encoding="utf-8")}
        for path in sorted((folder / "grafana/dashboards").glob("*.json"))
    }
    provider = {
        "name": "factory",
        "type": "file",
        "options": {"path": "/var/lib/grafana/dashboards/factory"},
    }
    return {
        # The chart's node exporter is off because the machine images already run one.
        "nodeExporter": {"enabled": False},
        "prometheus": {
            "prometheusSpec": {
                "additionalScrapeConfigs": read(folder / "prometheus/kubernetes.yml")["scrape_configs"]
            }
        },
        "additionalPrometheusRulesMap": {
            f"factory-{path.stem}": read(path) for path in sorted((folder / "prometheus/rules").glob("*.yml"))
        },
        "alertmanager": {"config": read(folder / "alertmanager/alertmanager.yml")},
        "grafana": {
            "dashboardProviders": {"dashboardproviders.yaml": {"apiVersion": 1, "providers": [provider]}},
            "dashboards": {"factory": dashboards},
        },
    }


def main(argv: Sequence[str]) -> int:
    Path(argv[0] if argv else PAGE).write_text(page(Path.cwd()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
