"""Batches that the options select: synthetic, token files or text."""

from argparse import Namespace
from typing import Any, Protocol

from training import text_files, token_files
from training.errors import DataError
from training.sampling import Shard
from training.storage import find_files
from training.synthetic import SyntheticTokens
from training.tokenizing import open_tokenizer


class Batches(Protocol):
    """Batches of a rank. `take` raises DataError; a position is written to checkpoints as JSON."""

    def take(self) -> Any:
        """Return the next batch."""

    def position(self) -> dict[str, Any]:
        """Return the position of the next batch."""

    def seek(self, positions: list[dict[str, Any]]) -> None:
        """Continue at the positions that all ranks of the earlier run saved."""


def open_tokens(options: Namespace, shard: Shard, *, vocabulary: int, length: int) -> Batches:
    """Return batches of sequences with length + 1 tokens, read from --data or synthetic."""
    if not options.data:
        return SyntheticTokens(
            batch_size=options.batch_size,
            seed=options.seed,
            shard=shard,
            vocabulary=vocabulary,
            length=length,
        )
    files = find_files(options.data, (*token_files.SUFFIXES, *text_files.SUFFIXES))
    of_tokens = [file for file in files if file.suffix in token_files.SUFFIXES]
    if of_tokens and len(of_tokens) < len(files):
        text = next(file for file in files if file not in of_tokens)
        raise DataError(f"--data has token files ({of_tokens[0].name}) and text ({text.name}); pass one kind")
    tokenizer = open_tokenizer(options.tokenizer) if options.tokenizer else None
    if of_tokens:
        opened = [token_files.open_token_file(file, options.cache_dir) for file in files]
        identity = tokenizer.identity if tokenizer else None
        token_files.check_vocabulary(opened, vocabulary=vocabulary, tokenizer=identity)
        return token_files.TokenBatches(
            opened,
            length=length,
            vocabulary=vocabulary,
            batch_size=options.batch_size,
            seed=options.seed,
            shard=shard,
        )
    if tokenizer is None:
        raise DataError(f"{files[0].name}: text needs --tokenizer tokenizer.json, or --tokenizer bytes")
    if tokenizer.vocabulary > vocabulary:
        raise DataError(
            f"--tokenizer {options.tokenizer} has {tokenizer.vocabulary} tokens, but the model's vocabulary "
            f"has {vocabulary}; use the model's tokenizer, or a model with a larger vocabulary (--config)"
        )
    return text_files.TextBatches(
        files,
        tokenizer=tokenizer,
        length=length,
        batch_size=options.batch_size,
        shard=shard,
        text_key=options.text_key,
        cache=options.cache_dir,
    )
