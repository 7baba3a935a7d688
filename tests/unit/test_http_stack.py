"""All HTTP requests use one client, which imports urllib3 lazily; roles retry the same HTTP statuses."""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from builder.adapters.host.http import TRANSIENT

CLIENTS = {"urllib3", "http.client", "urllib.request", "requests", "httpx"}
# The rehearsal's proxy forwards requests unchanged, so it needs http.client.
ALLOWED = {"builder/adapters/host/http.py": {"urllib3"}, "builder/rehearsal/proxy.py": {"http.client"}}


def imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the names of imported modules, except imports under `if TYPE_CHECKING`."""
    for node in nodes:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (node.module, *(f"{node.module}.{name.name}" for name in node.names))
        yield from imported(ast.iter_child_nodes(node))


def test_only_the_http_client_imports_an_http_library(root: Path) -> None:
    found = {
        str(path.relative_to(root)): CLIENTS & set(imported([ast.parse(path.read_text(encoding="utf-8"))]))
        for path in (root / "builder").rglob("*.py")
    }
    assert {path: clients for path, clients in found.items() if clients} == ALLOWED


def fetching_module(root: Path) -> ModuleType:
    """Import the download code of the Ansible modules, which cannot use the builder's HTTP client."""
    path = root / "ansible" / "plugins" / "module_utils" / "fetching.py"
    spec = importlib.util.spec_from_file_location("fetching", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_builder_and_roles_retry_the_same_http_statuses(root: Path) -> None:
    assert fetching_module(root).TRANSIENT == TRANSIENT


def test_imports_urllib3_only_with_the_first_request(root: Path) -> None:
    code = (
        "import sys\n"
        "from builder.adapters.host.http import Client\n"
        "from builder.adapters.host.network import Network\n"
        "from builder.adapters.registry.client import Registry\n"
        "Client(Network()), Registry('registry.example')\n"
        "print('urllib3' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"
