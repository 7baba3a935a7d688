"""Fine-tune a language model of Hugging Face with LoRA on Trainium, on JSON lines with prompt and answer.

Other options are those of NeuronTrainingArguments; `--model` and `--data` are paths or Hugging Face names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset
from optimum.neuron import NeuronSFTConfig, NeuronSFTTrainer, NeuronTrainingArguments
from optimum.neuron.models.training import NeuronModelForCausalLM
from peft import LoraConfig
from transformers import AutoTokenizer, HfArgumentParser

# Layers of Llama-style models that get adapters.
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass
class Options:
    """Options besides those of NeuronTrainingArguments."""

    model: str = field(metadata={"help": "folder of a model, or its name on the hub"})
    data: str = field(metadata={"help": "file of JSON lines, or the name of a data set on the hub"})
    prompt_key: str = field(default="prompt", metadata={"help": "key of the user's text"})
    answer_key: str = field(default="answer", metadata={"help": "key of the expected answer"})
    max_length: int = field(default=2048, metadata={"help": "tokens per example, a multiple of 2048"})
    lora_rank: int = field(default=16, metadata={"help": "rank of the adapters"})


def read_examples(data: str) -> Dataset:
    if Path(data).exists():
        return load_dataset("json", data_files=data, split="train")
    return load_dataset(data, split="train")


def conversation(example: Mapping[str, str], options: Options) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": example[options.prompt_key]},
        {"role": "assistant", "content": example[options.answer_key]},
    ]


def train(options: Options, arguments: NeuronTrainingArguments) -> None:
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = NeuronModelForCausalLM.from_pretrained(
        options.model,
        arguments.trn_config,
        torch_dtype=torch.bfloat16 if arguments.bf16 else torch.float32,
        attn_implementation="flash_attention_2",
    )

    def text_of(example: Mapping[str, Any]) -> str:
        return str(tokenizer.apply_chat_template(conversation(example, options), tokenize=False))

    trainer = NeuronSFTTrainer(
        args=NeuronSFTConfig(max_length=options.max_length, packing=True, **arguments.to_dict()),
        model=model,
        peft_config=LoraConfig(
            r=options.lora_rank,
            lora_alpha=options.lora_rank,
            lora_dropout=0.05,
            target_modules=LAYERS,
            bias="none",
            task_type="CAUSAL_LM",
        ),
        processing_class=tokenizer,
        train_dataset=read_examples(options.data),
        formatting_func=text_of,
    )
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    trainer.save_model(arguments.output_dir)


if __name__ == "__main__":
    train(*HfArgumentParser((Options, NeuronTrainingArguments)).parse_args_into_dataclasses())
