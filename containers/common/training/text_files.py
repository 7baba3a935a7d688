"""Text (a document per line) and JSON lines, tokenized while training, in the order of the files.

Each shard reads every `count`-th line, counted over all files and epochs. The position is a file offset,
so a resumed run continues with the next token.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError
from training.sampling import Shard
from training.storage import DataFile
from training.tokenizing import Tokenizer

SUFFIXES = (".txt", ".jsonl")


@dataclass(kw_only=True)
class Position:
    """Offset of the next line in a file, and the tokens of earlier lines that no sequence contains yet.

    `row` counts the earlier lines of the file, `line` those of all files and epochs.
    """

    shard: int
    shards: int
    files: int
    file: int = 0
    offset: int = 0
    row: int = 0
    line: int = 0
    pending: list[int] = field(default_factory=list)


def read_document(line: bytes, where: str, *, text_key: str | None) -> str:
    """Return the text of a line; raise DataError with file and line if it is not readable."""
    try:
        text = line.decode()
        if text_key is None:
            return text.strip()
        document = json.loads(text) if text.strip() else {text_key: ""}
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: byte {line[error.start]:#04x} at {error.start}") from error
    except ValueError as error:
        raise DataError(f"{where}: invalid JSON: {error}") from error
    found = document.get(text_key) if isinstance(document, dict) else None
    if not isinstance(found, str):
        raise DataError(f"{where}: no text under the key '{text_key}'; --text-key names another key")
    return found.strip()


class TextBatches:
    """Batches of sequences from text files; documents are joined and cut at the sequence length."""

    def __init__(
        self,
        files: Sequence[DataFile],
        *,
        tokenizer: Tokenizer,
        length: int,
        batch_size: int,
        shard: Shard,
        text_key: str,
        cache: Path,
    ) -> None:
        self._files, self._tokenizer, self._length = files, tokenizer, length
        self._batch_size, self._text_key, self._cache = batch_size, text_key, cache
        self._at = Position(shard=shard.index, shards=shard.count, files=len(files))
        self._documents = self._read()

    def take(self) -> NDArray[np.int64]:
        return np.stack([self._sequence() for _ in range(self._batch_size)])

    def position(self) -> dict[str, object]:
        return asdict(self._at)

    def seek(self, positions: list[dict[str, object]]) -> None:
        """Continue at this shard's position, or at the earliest one if the number of shards changed."""
        saved = [Position(**position) for position in positions]
        if saved[0].files != self._at.files:
            raise DataError(
                f"the checkpoint was written with {saved[0].files} files in --data, but there are "
                f"{self._at.files} now; pass --reset-data to begin at the start of the new data"
            )
        own = [p for p in saved if (p.shard, p.shards) == (self._at.shard, self._at.shards)]
        first = own[0] if own else min(saved, key=lambda position: position.line)
        pending = first.pending if own else []
        self._at = Position(
            **{**asdict(first), "shard": self._at.shard, "shards": self._at.shards, "pending": pending}
        )
        self._documents = self._read()

    def _sequence(self) -> NDArray[np.int64]:
        while len(self._at.pending) <= self._length:
            self._at.pending += [*self._tokenizer.encode(next(self._documents)), self._tokenizer.end]
        tokens = np.array(self._at.pending[: self._length + 1], dtype=np.int64)
        self._at.pending = self._at.pending[self._length :]
        return tokens

    def _read(self) -> Iterator[str]:
        """Yield the documents of this shard from the position on, epoch after epoch."""
        at = self._at
        found = 0
        while True:
            while at.file < len(self._files):
                for document in self._read_file(self._files[at.file]):
                    found += bool(document)
                    if document and at.line % at.shards == at.shard:
                        yield document
                at.file, at.offset, at.row = at.file + 1, 0, 0
            if not found:
                raise DataError(f"no text in the {len(self._files)} files of --data: {self._files[0].name}")
            at.file = 0

    def _read_file(self, file: DataFile) -> Iterator[str]:
        at = self._at
        for line in read_lines(file, self._cache, offset=at.offset):
            at.offset += len(line)
            at.row += 1
            at.line += 1
            yield read_document(line, f"{file.name}:{at.row}", text_key=key_for(file, self._text_key))


def documents_of(file: DataFile, cache: Path, *, text_key: str) -> Iterator[str]:
    """Yield the text of every line of a file."""
    for row, line in enumerate(read_lines(file, cache), 1):
        yield read_document(line, f"{file.name}:{row}", text_key=key_for(file, text_key))


def read_lines(file: DataFile, cache: Path, *, offset: int = 0) -> Iterator[bytes]:
    try:
        with file.fetched(cache).open("rb") as lines:
            lines.seek(offset)
            yield from lines
    except OSError as error:
        raise DataError(f"{file.name}: {error.strerror}") from error


def key_for(file: DataFile, text_key: str) -> str | None:
    """Return the JSON key of the text in each line of a .jsonl file; None for files of plain text."""
    return text_key if file.suffix == ".jsonl" else None
