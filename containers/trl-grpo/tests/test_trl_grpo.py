"""Checks of the image trl-grpo: a tiny model improves its reward and survives the loss of a rank."""

import json

from checks.training import (  # noqa: F401
    AS_NOBODY,
    PYTHON,
    TRAIN,
    WORKLOAD,
    explained_end,
    test_help_shows_an_example_and_the_exit_codes,
    test_missing_data_stops_both_ranks_with_one_message_and_no_restart,
    test_only_root_can_write_the_program,
    test_python_command_is_that_of_the_virtual_environment,
    test_start_without_torchrun_fails_with_a_one_line_error,
    test_torch_has_the_pinned_version,
    test_torchrun_command_is_that_of_the_workload_folder,
)

MODEL = "/tmp/checked-model"
# Python program that writes a model folder, prompts and a reward.
MAKE_DATA = f"""
import json, pathlib
from models import tiny_model
for part in tiny_model():
    part.save_pretrained("{MODEL}")
folder = pathlib.Path("{MODEL}")
line = json.dumps({{"prompt": "say b:", "answer": "b"}}) + "\\n"
(folder / "prompts.jsonl").write_text(line * 2)
(folder / "few.jsonl").write_text(line)
(folder / "reward.py").write_text(
    "def reward(completions, answer, **others):\\n"
    "    return [text.count(letter) for text, letter in zip(completions, answer)]\\n"
)
"""


def test_reward_rises_and_training_resumes_after_a_rank_is_killed(host):
    command = f"{PYTHON} {WORKLOAD}/smoke.py --metric reward --timeout-s 400 {TRAIN} --device cpu"
    ended = host.run(f"timeout 420 {AS_NOBODY} {command}")
    assert ended.rc == 0, ended.stderr
    assert json.loads(ended.stdout)["result"]["last_reward"] > 0.5


def test_model_prompts_and_reward_of_the_user_are_used(host):
    host.check_output("cd %s && timeout 200 %s -c %s", WORKLOAD, PYTHON, MAKE_DATA)
    # Only the owner can read the weights that save_pretrained writes.
    host.check_output("chmod -R a+rX %s", MODEL)
    own = ("--smoke", "--device", "cpu", "--steps", "2", f"--model {MODEL} --reward {MODEL}/reward.py")
    assert explained_end(host, *own, f"--data {MODEL}/prompts.jsonl") == (0, [])
    code, lines = explained_end(host, *own, f"--data {MODEL}/few.jsonl")
    assert code == 65
    assert lines == [
        "error: a step takes 2 prompts, but the data have 1; add prompts, or raise --generations"
    ]


def test_batch_that_the_generations_do_not_divide_gives_one_message(host):
    code, lines = explained_end(host, "--smoke", "--device", "cpu", "--generations", "3")
    assert code == 78
    assert lines == ["error: --generations 3 must be at least 2 and divide --batch-size 8 x 2 ranks"]
