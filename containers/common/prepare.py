"""Make token files with a tokenizer from text files: .txt with a document per line, or .jsonl.

Writes DIR/tokens-00000.bin with its index tokens-00000.json, and so on; files appear when they are complete.
"""

import argparse
import json
import os
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.errors import DataError, StorageError
from training.options import add_cache_option, add_tokenizer_options, positive_int, run_program


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make memory-mapped token files from text.",
        epilog="exit codes: 0 done; 2 options; 65 the text or the tokenizer; 74 DIR cannot be written",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", nargs="+", metavar="PATH", help="files or folders, or s3://BUCKET/PREFIX")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for the token files"
    )
    parser.add_argument(
        "--file-tokens",
        type=positive_int,
        default=500_000_000,
        metavar="N",
        help="tokens after which a new file begins (default: %(default)s)",
    )
    add_tokenizer_options(parser, required=True)
    add_cache_option(parser)
    return parser.parse_args(argv)


def prepare(options: argparse.Namespace) -> int:
    """Write the token files and print one JSON line with the numbers of files, documents and tokens."""
    # Imported late, so that --help works without NumPy.
    from training import text_files
    from training.storage import find_files
    from training.tokenizing import open_tokenizer

    tokenizer = open_tokenizer(options.tokenizer)
    files = find_files(options.data, text_files.SUFFIXES)
    code = "H" if tokenizer.vocabulary <= 2**16 else "I"
    tokens, documents, totals = array(code), 0, {"files": 0, "documents": 0, "tokens": 0}
    for text in _documents(files, options):
        tokens.extend([*tokenizer.encode(text), tokenizer.end])
        documents += 1
        if len(tokens) >= options.file_tokens:
            _write(options.output, tokens, documents, tokenizer, totals)
            tokens, documents = array(code), 0
    if tokens:
        _write(options.output, tokens, documents, tokenizer, totals)
    if not totals["documents"]:
        raise DataError(f"no text in {len(files)} files, such as {files[0].name}")
    print(json.dumps(totals))
    return 0


def _documents(files: Sequence[object], options: argparse.Namespace) -> Iterator[str]:
    from training.text_files import documents_of

    for file in files:
        yield from filter(None, documents_of(file, options.cache_dir, text_key=options.text_key))


def _write(
    folder: Path, tokens: "array[int]", documents: int, tokenizer: object, totals: dict[str, int]
) -> None:
    from training.token_files import Index, format_index

    index = Index(
        dtype="uint16" if tokens.typecode == "H" else "uint32",
        tokens=len(tokens),
        documents=documents,
        vocabulary=tokenizer.vocabulary,
        tokenizer=tokenizer.identity,
    )
    if sys.byteorder == "big":
        tokens.byteswap()
    name = f"tokens-{totals['files']:05d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The index is written first: a data file without its index would be refused by training.
        _write_whole(folder / f"{name}.json", format_index(index).encode())
        _write_whole(folder / f"{name}.bin", tokens.tobytes())
    except OSError as error:
        raise StorageError(f"{error.filename or folder}: {error.strerror}") from error
    totals["files"] += 1
    totals["documents"] += documents
    totals["tokens"] += len(tokens)


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name when it is complete."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    parsed = parse(sys.argv[1:])
    sys.exit(run_program(lambda: prepare(parsed)))
