"""Ranks of a training as the loop sees them, and the agreement on errors. Knows no framework."""

import sys
from abc import ABC, abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from training.errors import StorageError, TrainingError

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Ranks(ABC):
    """Rank of this process and its connection to the others; `restart` counts the launcher's restarts."""

    rank: int
    world_size: int
    restart: int

    framework: str = ""  # name and version
    device_type: str = "cpu"
    backend: str = ""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @abstractmethod
    def mean_and_any(self, loss: Any, flags: list[bool]) -> tuple[float, list[bool]]:
        """Return the mean of the loss over all ranks and, for each flag, True if it is set on any rank."""

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, on all ranks."""

    @contextmanager
    def profiled(self, options: Namespace) -> Iterator[Callable[[], None]]:
        """Trace the steps that the options select; yield a function to call after each step."""
        del options
        yield lambda: None

    def say(self, text: str) -> None:
        """Print a line on stderr, on the first rank only."""
        if self.is_first:
            print(text, file=sys.stderr, flush=True)

    def together(self, action: Callable[[], Value]) -> Value:
        """Return the action's value; if it fails on any rank, raise the first rank's error on all ranks."""
        value, problem = caught(action)
        self.raise_first(problem)
        return value  # type: ignore[return-value]

    def raise_first(self, problem: TrainingError | None) -> None:
        """Raise the error of the first rank that has one, on all ranks."""
        problems = self.gather(problem)
        found = [(rank, other) for rank, other in enumerate(problems) if other is not None]
        if found:
            rank, error = found[0]
            is_common = {str(other) for other in problems} == {str(error)}
            raise type(error)(str(error) if is_common else f"rank {rank}: {error}")


class Alone(Ranks):
    """Training in a single process."""

    def mean_and_any(self, loss: Any, flags: list[bool]) -> tuple[float, list[bool]]:
        return float(loss), flags

    def gather(self, value: Any) -> list[Any]:
        return [value]


def caught(action: Callable[[], Value]) -> tuple[Value | None, TrainingError | None]:
    """Return the action's value, or its TrainingError; an OSError becomes a StorageError."""
    try:
        return action(), None
    except TrainingError as error:
        return None, error
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return None, StorageError(f"{name}{error.strerror or error}")
