"""Writing and reading the state of PyTorch programs; a failed write becomes a StorageError."""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.nn.parallel import DistributedDataParallel

from training.errors import StorageError
from training.saving import done
from training.torch_ranks import TorchRanks

STATE = "state.pt"


def write_whole(state: object, path: Path) -> "Future[object]":
    """Write a state to a file and flush it to disk; return a future that is done."""
    try:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # torch.save hides the OSError of a full disk
        raise StorageError(f"{path}: {error}") from error
    return done()


def read_whole(path: Path, device: torch.device) -> Any:
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except RuntimeError as error:  # torch.load raises it for a damaged file
        raise StorageError(f"{path}: {error}") from error


class Replicated:
    """Saving and loading of workloads whose ranks hold equal models and optimizers."""

    _ranks: TorchRanks
    _replica: DistributedDataParallel
    _optimizer: torch.optim.Optimizer

    @property
    def _model(self) -> nn.Module:
        return self._replica.module

    def save(self, folder: Path) -> "Future[object]":
        """Write the state on the first rank only, because all replicas are equal."""
        if not self._ranks.is_first:
            return done()
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict()}
        return write_whole(state, folder / STATE)

    def load(self, folder: Path) -> None:
        state = read_whole(folder / STATE, self._ranks.device)
        self._model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


class Sharded:
    """Writes and loads sharded states: each rank writes its part.

    Saves use their own process group, so that asynchronous saves and the training do not mix messages.
    """

    def __init__(self, *, asynchronous: bool) -> None:
        self._asynchronous = asynchronous
        self._group = dist.new_group(backend="gloo")

    def save(self, state: dict[str, Any], folder: Path) -> "Future[object]":
        """Write the state; if asynchronous, return as soon as it is copied to host memory."""
        with _storage_errors(folder):
            if self._asynchronous:
                written = dcp.async_save(state, checkpoint_id=folder, process_group=self._group)
                return _translated(written, folder)
            dcp.save(state, checkpoint_id=folder, process_group=self._group)
        return done()

    def load(self, state: dict[str, Any], folder: Path) -> None:
        """Load the parts that this rank holds; the save may have used another number of ranks."""
        with _storage_errors(folder):
            dcp.load(state, checkpoint_id=folder, process_group=self._group)


class FullySharded:
    """Saving and loading of workloads whose model and optimizer are sharded over the ranks."""

    _model: nn.Module
    _optimizer: torch.optim.Optimizer
    _storage: Sharded

    def save(self, folder: Path) -> "Future[object]":
        model, optimizer = get_state_dict(self._model, self._optimizer)
        return self._storage.save({"model": model, "optimizer": optimizer}, folder)

    def load(self, folder: Path) -> None:
        model, optimizer = get_state_dict(self._model, self._optimizer)
        self._storage.load({"model": model, "optimizer": optimizer}, folder)
        set_state_dict(self._model, self._optimizer, model_state_dict=model, optim_state_dict=optimizer)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointException as error:
        raise _storage_error(error, folder) from error


def _storage_error(error: BaseException, folder: Path) -> StorageError:
    if not isinstance(error, CheckpointException):
        return StorageError(f"{folder}: {error}")
    rank, (cause, _) = min(error.failures.items())
    return StorageError(f"{folder}: rank {rank}: {getattr(cause, 'strerror', None) or cause}")


def _translated(written: Any, folder: Path) -> "Future[object]":
    """Return a future with the same result, or with the error as a StorageError."""
    future: Future[object] = Future()

    def finish(ended: "Future[object]") -> None:
        error = ended.exception()
        if error is None:
            future.set_result(ended.result())
        else:
            future.set_exception(_storage_error(error, folder))

    written.add_done_callback(finish)
    return future
