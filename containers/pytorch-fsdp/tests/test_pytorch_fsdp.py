"""Checks of the image pytorch-fsdp: the program survives the loss of a rank and trains on text files."""

import json

from checks.training import (  # noqa: F401
    PYTHON,
    TRAIN,
    WORKLOAD,
    explained_end,
    import_errors,
    smoke,
    test_help_shows_an_example_and_the_exit_codes,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)

# Python program that writes text that a model learns quickly, and a tokenizer file for it.
MAKE_DATA = """
import json, pathlib
from tokenizers import Tokenizer, models, pre_tokenizers
folder = pathlib.Path("/tmp/checked-data")
folder.mkdir()
words = [f"word{number}" for number in range(50)]
lines = [json.dumps({"text": " ".join(words[start:] + words[:start])}) for start in range(50)]
(folder / "text.jsonl").write_text("\\n".join(lines * 4))
vocabulary = {"</s>": 0, **{word: number for number, word in enumerate(words, 1)}}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer.save(str(folder / "tokenizer.json"))
"""


def test_computed_parameter_count_matches_the_model_for_each_size(host):
    script = (
        "import torch; from llama.model import Llama; from llama.config import named, size_names; "
        "torch.set_default_device('meta'); "
        "print([name for name in size_names()"
        " if sum(p.numel() for p in Llama(named(name)).parameters()) != named(name).parameters])"
    )
    assert host.check_output("cd %s && timeout 300 %s -c %s", WORKLOAD, PYTHON, script) == "[]"


def test_print_config_counts_the_parameters_of_the_largest_model(host):
    printed = host.check_output(f"timeout 30 {PYTHON} {TRAIN} --model 70b --print-config")
    assert json.loads(printed)["parameters"] == 70_553_706_496


def test_modules_can_be_imported(host):
    assert import_errors(host, "llama.model", "prepare", "sharded", "smoke", "train") == ""


def test_training_on_text_with_asynchronous_checkpoints_resumes_after_a_rank_is_killed(host):
    host.check_output("timeout 200 %s -c %s", PYTHON, MAKE_DATA)
    words = "--tokenizer /tmp/checked-data/tokenizer.json --output /tmp/checked-data/tokens"
    prepared = host.check_output(f"timeout 200 {PYTHON} {WORKLOAD}/prepare.py /tmp/checked-data {words}")
    assert json.loads(prepared)["documents"] == 200
    assert (
        smoke(host, "--device cpu --async-checkpoint --data /tmp/checked-data/tokens")["repeated_steps"] > 0
    )


def test_full_disk_ends_both_ranks_with_one_message_and_keeps_the_earlier_checkpoint(host):
    # The file system has space for one checkpoint of 1.6 MB, but not for two.
    fill = "fallocate -l $(( $(df --output=avail -k /dev/shm | tail -1) - 2500 ))K /dev/shm/filler"
    try:
        host.check_output(fill)
        code, lines = explained_end(
            host, "--smoke", "--device", "cpu", "--checkpoint-dir", "/dev/shm/checkpoints"
        )
        kept = host.check_output("ls /dev/shm/checkpoints").split()
    finally:
        host.check_output("rm -rf /dev/shm/filler /dev/shm/checkpoints")
    assert code == 74
    assert len(lines) == 1
    assert "the checkpoint of step 40 is intact" in lines[0]
    assert "MB are free in /dev/shm/checkpoints" in lines[0]
    assert kept == ["step-00000040"]
