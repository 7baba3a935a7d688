"""Language models and their tokenizers: those of a folder, or a tiny model with random weights."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from training.errors import DataError

ALPHABET = "abcdefghijklmnopqrstuvwxyz :"


def load_model(folder: Path | None) -> tuple[Any, Any]:
    """Return model and tokenizer of a folder, or a tiny pair; raise DataError if they do not fit together."""
    if folder is None:
        return tiny_model()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder on this node")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder}: {str(error).splitlines()[0]}") from error
    if len(tokenizer) > model.config.vocab_size:
        raise DataError(
            f"{folder}: tokenizer has {len(tokenizer)} tokens, but the model has {model.config.vocab_size}"
        )
    return model, tokenizer


def tiny_model() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    vocabulary = {"<pad>": 0, "<eos>": 1, **{letter: number for number, letter in enumerate(ALPHABET, 2)}}
    library = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    library.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    library.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=library, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config), tokenizer
