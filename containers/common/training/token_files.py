"""Token files: .npy arrays, or .bin files of little-endian integers with an index; both memory-mapped.

The index of tokens.bin is tokens.json: format, dtype, tokens, documents, vocabulary and tokenizer. An .npy
file may have an index; without one, only the token numbers are checked.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.sampling import Cursor, Shard
from training.storage import DataFile, find_files

SUFFIXES = (".bin", ".npy")
FORMAT = 1
DTYPES = ("uint16", "uint32")


@dataclass(frozen=True, kw_only=True)
class Index:
    """Description of a token file."""

    dtype: str
    tokens: int
    documents: int
    vocabulary: int
    tokenizer: str
    format: int = FORMAT


def read_index(text: str, name: str) -> Index:
    """Return the index; raise DataError with the name of its file if it is damaged or of another format."""
    try:
        index = Index(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: damaged index: {error}") from error
    if index.format != FORMAT or index.dtype not in DTYPES:
        raise DataError(
            f"{name}: format {index.format} with dtype {index.dtype}; expected {FORMAT}, {DTYPES}"
        )
    return index


def format_index(index: Index) -> str:
    return json.dumps(asdict(index), indent=1) + "\n"


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """Token file on this node, and its index if there is one."""

    name: str
    tokens: NDArray[np.integer]
    index: Index | None


def open_token_file(file: DataFile, cache: Path) -> TokenFile:
    """Map a token file into memory; raise DataError if it is truncated or has no valid index."""
    path = file.fetched(cache)
    index = _find_index(file, cache)
    try:
        if file.suffix == ".npy":
            tokens = np.load(path, mmap_mode="r")
        elif index is None:
            raise DataError(
                f"{file.name}: has no index {Path(file.name).stem}.json; prepare.py writes both files"
            )
        elif file.size != index.tokens * np.dtype(index.dtype).itemsize:
            raise DataError(
                f"{file.name}: has {file.size} bytes, but its index counts {index.tokens} tokens of "
                f"{index.dtype}; the file is truncated or the index belongs to another file"
            )
        else:
            tokens = np.memmap(path, dtype=np.dtype(index.dtype).newbyteorder("<"), mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from error
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise DataError(
            f"{file.name}: has {tokens.ndim} dimensions of {tokens.dtype}; expected one dimension of integers"
        )
    return TokenFile(name=file.name, tokens=cast("NDArray[np.integer]", tokens), index=index)


def _find_index(file: DataFile, cache: Path) -> Index | None:
    name = f"{file.name.removesuffix(file.suffix)}.json"
    if file.path is not None:
        path = Path(name)
        return read_index(path.read_text(encoding="utf-8"), name) if path.is_file() else None
    try:
        (found,) = find_files([name], [".json"])
    except DataError:
        if file.suffix == ".npy":
            return None
        raise
    return read_index(found.fetched(cache).read_text(encoding="utf-8"), name)


class TokenBatches:
    """Batches of sequences from token files, in another order in every epoch."""

    def __init__(
        self,
        files: Sequence[TokenFile],
        *,
        length: int,
        vocabulary: int,
        batch_size: int,
        seed: int,
        shard: Shard,
    ) -> None:
        self._files, self._length, self._vocabulary = files, length, vocabulary
        self._batch_size = batch_size
        # Neighbouring sequences share a token: the last target of the first is the first input of the second.
        self._ends = np.cumsum([max(0, len(file.tokens) - 1) // length for file in files])
        if not self._ends[-1]:
            names = ", ".join(file.name for file in files[:3]) + (", …" if files[3:] else "")
            raise DataError(f"{names}: fewer than the {length + 1} tokens of one sequence")
        self._cursor = Cursor(total=int(self._ends[-1]), seed=seed, shard=shard)

    def take(self) -> NDArray[np.int64]:
        return np.stack([self._sequence(int(sample)) for sample in self._cursor.take(self._batch_size)])

    def position(self) -> dict[str, int]:
        return {"samples": self._cursor.taken, "total": self._cursor.total}

    def seek(self, positions: list[dict[str, int]]) -> None:
        total = positions[0]["total"]
        if total != self._cursor.total:
            raise DataError(
                f"the checkpoint was written with {total} sequences in --data, but there are "
                f"{self._cursor.total} now; pass --reset-data to begin at the start of the new data"
            )
        self._cursor.taken = positions[0]["samples"]

    def _sequence(self, sample: int) -> NDArray[np.int64]:
        number = int(np.searchsorted(self._ends, sample, side="right"))
        file = self._files[number]
        start = (sample - (int(self._ends[number - 1]) if number else 0)) * self._length
        tokens = file.tokens[start : start + self._length + 1].astype(np.int64)
        wrong = (tokens < 0) | (tokens >= self._vocabulary)
        if wrong.any():
            offset = int(np.argmax(wrong))
            raise DataError(
                f"{file.name}: token {start + offset} is {tokens[offset]}, but the model's vocabulary has "
                f"{self._vocabulary} tokens; the file is damaged or was made with another tokenizer"
            )
        return tokens


def check_vocabulary(files: Sequence[TokenFile], *, vocabulary: int, tokenizer: str | None) -> None:
    """Raise DataError if files have different tokenizers, or a tokenizer does not fit the model."""
    known = [(file, file.index) for file in files if file.index is not None]
    for file, index in known:
        wanted = tokenizer or known[0][1].tokenizer
        if index.tokenizer != wanted:
            other = "--tokenizer" if tokenizer else known[0][0].name
            raise DataError(
                f"{file.name}: made with the tokenizer {index.tokenizer[:19]}, but {other} is {wanted[:19]}; "
                "token numbers of different tokenizers cannot be mixed"
            )
        if index.vocabulary > vocabulary:
            raise DataError(
                f"{file.name}: made with a vocabulary of {index.vocabulary} tokens, but the model has "
                f"{vocabulary}; select a model with a larger vocabulary (--config), or prepare the data "
                "with its tokenizer"
            )
