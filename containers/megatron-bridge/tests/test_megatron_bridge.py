"""Checks of the image megatron-bridge: the program works with the library of the vendor's image."""

import pytest

PROGRAM = "/opt/workload/pretrain.py"


def test_help_names_a_recipe(host):
    assert "qwen3_30b_a3b_pretrain_config" in host.check_output(f"python3 {PROGRAM} --help")


def test_error_for_an_unknown_recipe_lists_the_known_recipes(host):
    ended = host.run(f"timeout 300 python3 {PROGRAM} --recipe qwen.qwen3_moe.nothing")
    assert ended.rc == 1
    assert "qwen3_30b_a3b_pretrain_config" in ended.stderr


@pytest.mark.needs("gpu")
def test_small_model_trains_ten_steps(host):
    command = f"torchrun --standalone --nproc-per-node gpu {PROGRAM}"
    assert host.run(f"{command} --recipe gpt.vanilla_gpt.vanilla_gpt_pretrain_config --steps 10").rc == 0
