"""Configuration of the program deepspeed, without PyTorch."""

import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))
sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "deepspeed" / "src"))

import settings
from training.errors import TrainingError


def options(path: Path | None) -> Namespace:
    return Namespace(batch_size=4, zero_stage=2, steps=10, deepspeed_config=path)


def test_sections_of_a_users_deepspeed_file_replace_the_default_sections(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_text('{"zero_optimization": {"overlap_comm": true}, "comms_logger": {"enabled": true}}')
    found = settings.settings_of(options(path), on_gpu=True)
    assert found["zero_optimization"] == {"stage": 2, "overlap_comm": True}
    assert found["comms_logger"] == {"enabled": True}
    assert found["train_micro_batch_size_per_gpu"] == 4
    assert found["bf16"] == {"enabled": True}
    assert settings.settings_of(options(None), on_gpu=False)["zero_optimization"] == {"stage": 2}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "my.json: No such file or directory"),
        ("{", "my.json: Expecting property name"),
        ("[]", "my.json: not a JSON object"),
        ('{"optimizer": {}}', "my.json: optimizer: the program sets this key; use --learning-rate"),
        ('{"zero_optimization": 3}', "my.json: zero_optimization: not a JSON object"),
        (
            '{"zero_optimization": {"stage": 3}}',
            "my.json: zero_optimization.stage: the program sets this key; use --zero-stage",
        ),
    ],
)
def test_wrong_deepspeed_configuration_file_is_refused(
    tmp_path: Path, text: str | None, complaint: str
) -> None:
    path = tmp_path / "my.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainingError, match=re.escape(complaint)):
        settings.settings_of(options(path), on_gpu=False)
