"""Prompts and rewards of the program trl-grpo, without PyTorch."""

import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))
sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "trl-grpo" / "src"))

import prompts
from training.errors import DataError, TrainingError


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"prompt": "1 + 1 ="}', "a.jsonl:3: no text under the key 'answer'"),
        (b"[]", "a.jsonl:3: no text under the key 'prompt'"),
        (b"\xff", "a.jsonl:3: invalid JSON"),
    ],
)
def test_wrong_prompt_is_refused_with_its_line(line, complaint):
    with pytest.raises(DataError, match=re.escape(complaint)):
        prompts.read_prompt(line, "a.jsonl:3")


def test_builtin_rewards_score_correct_answers_and_letter_shares():
    assert prompts.contains_answer(["it is 7", "no"], ["7", "7"]) == [1.0, 0.0]
    assert prompts.share_of_letter(["abab", ""]) == [0.5, 0.0]


def test_reward_function_of_the_user_is_used(tmp_path):
    path = tmp_path / "my.py"
    path.write_text("def reward(completions, **others):\n    return [len(text) for text in completions]\n")
    assert prompts.choose_reward(Namespace(reward=path, data=None))(completions=["ab"]) == [2]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file or directory"),
        ("def reward(:", "invalid syntax"),
        ("score = 1", "has no function named 'reward'"),
    ],
)
def test_wrong_reward_file_is_refused(tmp_path, text, complaint):
    path = tmp_path / "my.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainingError, match=complaint):
        prompts.choose_reward(Namespace(reward=path, data=None))
