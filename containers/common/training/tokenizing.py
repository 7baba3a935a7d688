"""Tokenizers: bytes, or a file of the library `tokenizers` (tokenizer.json of Hugging Face models)."""

import hashlib
from pathlib import Path
from typing import Protocol

from training.errors import DataError

BYTES = "bytes"
# Names of the token that ends a document, in the order of preference.
END_TOKENS = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "[SEP]")


class Tokenizer(Protocol):
    """Maps text to token numbers; `identity` differs between tokenizers that give different numbers."""

    identity: str
    vocabulary: int
    end: int  # token after each document

    def encode(self, text: str) -> list[int]: ...


class ByteTokenizer:
    """Tokenizer whose tokens are the bytes of UTF-8; needs no file and no library."""

    identity = BYTES
    vocabulary = 257
    end = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


class FileTokenizer:
    """Tokenizer of a tokenizer.json file."""

    def __init__(self, path: Path) -> None:
        # Imported late: token files and bytes need no library.
        from tokenizers import Tokenizer as Library

        try:
            content = path.read_bytes()
            self._library = Library.from_buffer(content)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from error
        except Exception as error:
            raise DataError(f"{path}: not a tokenizer.json: {error}") from error
        self.identity = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.vocabulary: int = self._library.get_vocab_size()
        ends = (self._library.token_to_id(name) for name in END_TOKENS)
        self.end = next((end for end in ends if end is not None), -1)
        if self.end < 0:
            raise DataError(f"{path}: has none of the end tokens {' '.join(END_TOKENS)}")

    def encode(self, text: str) -> list[int]:
        numbers: list[int] = self._library.encode(text, add_special_tokens=False).ids
        return numbers


def open_tokenizer(name: str) -> Tokenizer:
    return ByteTokenizer() if name == BYTES else FileTokenizer(Path(name))
