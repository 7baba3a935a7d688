"""Addresses of all workers: from TF_CONFIG, or exchanged through the first worker."""

import json
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack

from training.errors import RankError

TICK_S = 0.2
ANSWER_S = 10  # time in which a worker that has connected sends its line


def find_cluster(environment: Mapping[str, str], timeout_s: float) -> str:
    """Return TF_CONFIG; if it is not set, exchange addresses with the other workers and create it."""
    if environment.get("TF_CONFIG") or environment.get("WORLD_SIZE", "1") == "1":
        return environment.get("TF_CONFIG", "")
    try:
        rank, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        host, _, port = environment["JAX_COORDINATOR_ADDRESS"].rpartition(":")
        first = (host, int(port))
    except KeyError as error:
        raise RankError(f"{error.args[0]} is not set, and neither is TF_CONFIG") from error
    except ValueError as error:
        raise RankError(f"RANK, WORLD_SIZE or JAX_COORDINATOR_ADDRESS: {error}") from error
    deadline = time.monotonic() + timeout_s
    try:
        workers = lead(first, count, deadline) if rank == 0 else join(first, rank, deadline)
    except OSError as error:
        raise RankError(f"worker {rank} cannot join the other workers at {host}:{port}: {error}") from error
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def lead(first: tuple[str, int], count: int, deadline: float) -> list[str]:
    """Collect the addresses of the other workers, send them the list and return it."""
    addresses = {0: f"{first[0]}:{free_port()}"}
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", first[1])))
        joined: dict[int, socket.socket] = {}
        while len(addresses) < count:
            server.settimeout(max(0.0, deadline - time.monotonic()) or TICK_S)
            connection, (host, _) = server.accept()
            stack.enter_context(connection)
            connection.settimeout(ANSWER_S)
            try:
                rank, port = map(int, connection.makefile().readline().split())
            except (OSError, ValueError):
                continue  # not a worker
            if not 0 < rank < count:
                raise RankError(f"{host} has RANK {rank}; it must be 1 to {count - 1}")
            addresses[rank], joined[rank] = f"{host}:{port}", connection
        workers = [addresses[rank] for rank in range(count)]
        for connection in joined.values():
            connection.sendall(f"{json.dumps(workers)}\n".encode())
        return workers


def join(first: tuple[str, int], rank: int, deadline: float) -> list[str]:
    """Send this worker's address to the first worker, and return the addresses of all workers."""
    while True:
        try:
            connection = socket.create_connection(first, timeout=ANSWER_S)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(TICK_S)
    with connection:
        connection.settimeout(max(TICK_S, deadline - time.monotonic()))
        connection.sendall(f"{rank} {free_port()}\n".encode())
        text = connection.makefile().readline()
    if not text.endswith("\n"):
        raise ConnectionError("the first worker closed the connection")
    workers: list[str] = json.loads(text)
    return workers


def free_port() -> int:
    """Return a port that no process uses."""
    with socket.socket() as free:
        free.bind(("", 0))
        port: int = free.getsockname()[1]
        return port
