"""The smoke check of training programs: evaluation of losses, restarts and results."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))

import smoke
from smoke import Loss, SmokeError

BEFORE = [Loss(restart=0, step=step, loss=4.0 / step) for step in range(1, 8)]
AFTER = [Loss(restart=1, step=step, loss=4.0 / step) for step in range(5, 11)]


def test_repeated_steps_with_equal_losses_are_counted():
    assert smoke.check_losses(BEFORE + AFTER) == 3


def test_loss_that_differs_after_resuming_fails():
    changed = [*AFTER[:2], Loss(restart=1, step=7, loss=0.6), *AFTER[3:]]
    with pytest.raises(SmokeError, match=r"step 7 had loss 0\.571.* before and 0\.6 after"):
        smoke.check_losses(BEFORE + changed)


def test_loss_that_does_not_fall_fails():
    flat = [Loss(restart=restart, step=step, loss=4.0) for restart in (0, 1) for step in (1, 2, 3)]
    with pytest.raises(SmokeError, match=r"from 4\.0 to 4\.0"):
        smoke.check_losses(flat)


def test_reward_of_a_smoke_run_must_at_least_double(tmp_path):
    metrics = tmp_path / "metrics"
    steps = [(0, 1, 0.1), (0, 2, 0.15), (1, 2, 0.15), (1, 3, 0.3)]
    lines = [
        json.dumps({"restart": restart, "step": step, "loss": 0.0, "reward": reward})
        for restart, step, reward in steps
    ]
    metrics.write_text("".join(f"{line}\n" for line in lines))
    rewards = smoke.read_losses(metrics, "reward")
    assert smoke.check_losses(rewards, "reward") == 1
    with pytest.raises(SmokeError, match=r"reward went from 0\.1 to 0\.15"):
        smoke.check_losses(rewards[:-1], "reward")


@pytest.mark.parametrize(
    "wrong", [{"resumed_from_step": 0}, {"restarts": 0}, {"restarts": 2}, {"finished": False}]
)
def test_resumption_needs_a_checkpoint_one_restart_and_a_finished_run(wrong):
    good: dict[str, object] = {"resumed_from_step": 40, "restarts": 1, "finished": True}
    assert smoke.check_resumption(good) == 40
    with pytest.raises(SmokeError, match="did not resume"):
        smoke.check_resumption(good | wrong)


def test_incomplete_line_of_metrics_is_ignored(tmp_path):
    metrics = tmp_path / "metrics"
    assert smoke.read_losses(metrics) == []
    metrics.write_text('{"restart": 0, "step": 1, "loss": 2.5}\n{"restart": 0, "st')
    assert smoke.read_losses(metrics) == [Loss(restart=0, step=1, loss=2.5)]


@pytest.mark.parametrize("lines", [[], ["{}", "{}"]])
def test_stdout_must_have_exactly_one_result_line(tmp_path, lines):
    stdout = tmp_path / "stdout"
    stdout.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(SmokeError, match=f"one line with the result on stdout, got {len(lines)}"):
        smoke.read_result(stdout)


@pytest.fixture
def program_that_fails(tmp_path):
    """Create a training program and a fake torchrun that prints an error and exits with 3."""
    torchrun = tmp_path / "torchrun"
    torchrun.write_text("#!/bin/sh\necho no such option >&2\nexit 3\n")
    torchrun.chmod(0o755)
    program = tmp_path / "train.py"
    program.touch()
    return program


def test_early_exit_of_torchrun_is_reported_with_its_log(program_that_fails, monkeypatch, capsys):
    monkeypatch.setenv("PATH", f"{program_that_fails.parent}:{os.environ['PATH']}")
    assert smoke.main([str(program_that_fails), "--timeout-s", "20"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no such option" in captured.err
    assert "the launcher ended with exit code 3 before writing a checkpoint" in captured.err


def test_option_kill_rank_must_name_an_existing_rank(program_that_fails, capsys):
    with pytest.raises(SystemExit) as ended:
        smoke.main([str(program_that_fails), "--ranks", "2", "--kill-rank", "2"])
    assert ended.value.code == 2
    assert "--kill-rank 2 is not one of the 2 ranks" in capsys.readouterr().err
