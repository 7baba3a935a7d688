"""Labelled points from .npz files with the arrays `points` (examples x features) and `labels`."""

import zipfile
from argparse import Namespace

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.sampling import Cursor, Shard
from training.storage import DataFile, find_files
from training.synthetic import SyntheticPoints

Points = tuple[NDArray[np.float32], NDArray[np.int64]]


class PointBatches:
    """Batches of points that are held in memory, in another order in every epoch."""

    def __init__(self, points: Points, *, batch_size: int, seed: int, shard: Shard) -> None:
        self._points, self._labels = points
        self._batch_size = batch_size
        self._cursor = Cursor(total=len(self._labels), seed=seed, shard=shard)

    def take(self) -> Points:
        chosen = self._cursor.take(self._batch_size)
        return self._points[chosen], self._labels[chosen]

    def position(self) -> dict[str, int]:
        return {"samples": self._cursor.taken, "total": self._cursor.total}

    def seek(self, positions: list[dict[str, int]]) -> None:
        if positions[0]["total"] != self._cursor.total:
            raise DataError(
                f"the checkpoint was written with {positions[0]['total']} examples in --data, but there are "
                f"{self._cursor.total} now; pass --reset-data to begin at the start of the new data"
            )
        self._cursor.taken = positions[0]["samples"]


def open_points(options: Namespace, shard: Shard) -> "PointBatches | SyntheticPoints":
    if not options.data:
        return SyntheticPoints(
            batch_size=options.batch_size,
            seed=options.seed,
            shard=shard,
            features=options.features,
            classes=options.classes,
        )
    files = find_files(options.data, [".npz"])
    read = [_read(file, options) for file in files]
    points = np.concatenate([points for points, _ in read]), np.concatenate([labels for _, labels in read])
    return PointBatches(points, batch_size=options.batch_size, seed=options.seed, shard=shard)


def _read(file: DataFile, options: Namespace) -> Points:
    try:
        with np.load(file.fetched(options.cache_dir)) as arrays:
            points, labels = arrays["points"], arrays["labels"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from error
    if points.ndim != 2 or labels.shape != points.shape[:1] or not len(labels):
        raise DataError(f"{file.name}: points {points.shape} and labels {labels.shape} do not fit together")
    if points.shape[1] != options.features:
        raise DataError(f"{file.name}: {points.shape[1]} features; pass --features {points.shape[1]}")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= options.classes:
        raise DataError(f"{file.name}: labels are not integers below --classes {options.classes}")
    return points.astype(np.float32), labels.astype(np.int64)
