"""Workers of the program tensorflow-distributed exchange their addresses; tested without TensorFlow."""

import contextlib
import json
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))
sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "tensorflow-distributed" / "src"))

import cluster
from training.errors import RankError

WORKERS = 3
TIMEOUT_S = 20


@pytest.fixture
def head() -> str:
    """Free loopback address for the first worker."""
    return f"127.0.0.1:{cluster.free_port()}"


def found_by(rank: int, head: str) -> dict[str, Any]:
    environment = {"RANK": str(rank), "WORLD_SIZE": str(WORKERS), "JAX_COORDINATOR_ADDRESS": head}
    found: dict[str, Any] = json.loads(cluster.find_cluster(environment, TIMEOUT_S))
    return found


def test_all_workers_get_the_same_list_of_addresses(head: str) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(found_by, rank, head) for rank in (2, 1)]
        found = [found_by(0, head), *(future.result() for future in reversed(waiting))]
    assert [one["task"] for one in found] == [{"type": "worker", "index": rank} for rank in range(WORKERS)]
    workers = found[0]["cluster"]["worker"]
    assert all(one["cluster"] == {"worker": workers} for one in found)
    assert len(set(workers)) == WORKERS
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", worker) for worker in workers)


def test_tf_config_of_the_user_has_priority() -> None:
    assert cluster.find_cluster({"TF_CONFIG": "{}", "WORLD_SIZE": "2", "RANK": "0"}, TIMEOUT_S) == "{}"
    assert cluster.find_cluster({}, TIMEOUT_S) == ""


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"RANK": "1"}, "JAX_COORDINATOR_ADDRESS is not set, and neither is TF_CONFIG"),
        (
            {"RANK": "x", "JAX_COORDINATOR_ADDRESS": "a:1"},
            "RANK, WORLD_SIZE or JAX_COORDINATOR_ADDRESS: invalid",
        ),
        (
            {"RANK": "1", "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"},
            "worker 1 cannot join the other workers at 127.0.0.1:1: ",
        ),
    ],
)
def test_error_of_a_worker_without_other_workers_explains_the_cause(
    environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(RankError, match=re.escape(complaint)):
        cluster.find_cluster({"WORLD_SIZE": "2", **environment}, timeout_s=0)


def test_the_first_worker_waits_no_longer_than_its_timeout(head: str) -> None:
    environment = {"RANK": "0", "WORLD_SIZE": "2", "JAX_COORDINATOR_ADDRESS": head}
    with pytest.raises(RankError, match="timed out"):
        cluster.find_cluster(environment, timeout_s=0)


def test_error_names_a_worker_with_a_wrong_rank(head: str) -> None:
    host, _, port = head.rpartition(":")
    with ThreadPoolExecutor() as pool:
        leading = pool.submit(found_by, 0, head)
        with contextlib.suppress(ConnectionError):
            cluster.join((host, int(port)), WORKERS, time.monotonic() + TIMEOUT_S)
        with pytest.raises(RankError, match=f"127.0.0.1 has RANK {WORKERS}; it must be 1 to {WORKERS - 1}"):
            leading.result(TIMEOUT_S)
