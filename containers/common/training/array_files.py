"""Arrays of a checkpoint, one file each, for frameworks without their own checkpoint format."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import StorageError


def write(path: Path, array: NDArray[Any]) -> None:
    """Write an array and flush it to disk."""
    with path.open("wb") as file:
        np.save(file, array)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, shape: tuple[int, ...], dtype: object) -> NDArray[Any]:
    """Return the memory-mapped array of a file; raise StorageError if damaged or of other dtype or shape."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise StorageError(f"{path}: {error}") from error
    if (array.shape, array.dtype) != (shape, dtype):
        raise StorageError(f"{path}: has {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")
    return array
