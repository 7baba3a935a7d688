"""JSON run files and parallelism grids of the program picotron, tested without PyTorch."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "common"))
sys.path.insert(0, str(Path(__file__).parents[2] / "containers" / "picotron" / "src"))

import create_config
from layout import Layout, layout_of
from llama.config import read_config
from run_file import expanded
from training.errors import TrainingError
from training.ranks import Alone


def write_run(folder: Path, **sections: dict[str, object]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(sections))
    return path


def test_run_file_of_picotrons_create_config_is_converted_to_options(tmp_path, capsys):
    words = (
        "--exp_name tp2 --tp 2 --pp 2 --dp 1 --mbs 3 --grad_acc_steps 4 --seq_len 32 --num_hidden_layers 6"
    )
    assert create_config.main(["--out_dir", str(tmp_path), *words.split(), "--model_name", "toy"]) == 0
    path = capsys.readouterr().out.strip()
    folder = tmp_path / "tp2"
    assert path == str(folder / "config.json")
    assert read_config(folder / "model.toml").layers == 6
    options = " ".join(expanded(["--steps", "9", f"--config={path}", "--seed", "3"]))
    assert options.endswith("--batch-size 12 --steps 9 --seed 3")
    for words in (f"--config {folder}/model.toml", "--tensor-parallel 2", "--micro-batches 4", "--seed 42"):
        assert words in options


def test_options_without_a_json_run_file_are_not_changed():
    for words in ("--config my.toml --steps 3", "--steps 3", "--config"):
        assert expanded(words.split()) == words.split()


def test_sizes_of_a_hugging_face_model_are_read(tmp_path):
    sizes = {"vocab_size": 264, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 192, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    config = create_config.sizes_of_folder(tmp_path)
    assert (config.dim, config.kv_heads, config.rope_theta) == (64, 4, 10_000.0)
    del sizes["rms_norm_eps"]
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    with pytest.raises(TrainingError, match="rms_norm_eps is missing; the model is not a Llama"):
        create_config.sizes_of_folder(tmp_path)


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        (
            {"distributed": {"tp_sizes": 2}},
            "distributed.tp_sizes: unknown key; did you mean 'distributed.tp_size'",
        ),
        ({"distributed": {"cp_size": 2}}, "distributed.cp_size is 2: context parallelism is not part"),
        (
            {"environment": {"HF_TOKEN": "hf_x"}},
            "HF_TOKEN is set: nothing is downloaded; a token does not belong",
        ),
        ({"model": {"name": "HuggingFaceTB/SmolLM-1.7B"}}, "is neither a size"),
        ({"training": {"micro_batch_size": "x"}}, "'x' x 1 examples is not a positive integer"),
        ({"training": 3}, "not a JSON object of sections"),
    ],
)
def test_wrong_run_file_is_refused_with_its_key(tmp_path, sections, complaint):
    path = write_run(tmp_path, **sections)
    with pytest.raises(TrainingError, match=complaint) as refused:
        expanded(["--config", str(path)])
    assert str(refused.value).startswith(str(path))


def options_for(**changes: object) -> Namespace:
    chosen = {"tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": None, "micro_batches": 4}
    return Namespace(**(chosen | {"batch_size": 8, "config": None, "model": "toy"} | changes))


def test_neighbouring_ranks_form_tensor_groups_which_form_pipeline_stages():
    layout = layout_of(
        options_for(tensor_parallel=2, pipeline_parallel=2), Alone(rank=0, world_size=8, restart=0)
    )
    assert layout == Layout(tensor=2, pipeline=2, data=2)
    assert [layout.stage(rank) for rank in range(8)] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [layout.shard(rank).index for rank in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [list(layout.blocks(stage, 5)) for stage in (0, 1)] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"data_parallel": 2}, "is not the number of ranks, 4"),
        ({"pipeline_parallel": 3}, "is not the number of ranks, 4"),
        ({"pipeline_parallel": 4}, "--pipeline-parallel 4 is more than the 2 layers"),
        ({"micro_batches": 3}, "--micro-batches 3 does not divide --batch-size 8"),
        (
            {"pipeline_parallel": 2, "micro_batches": 1},
            "--micro-batches 1 is less than --pipeline-parallel 2",
        ),
        ({"tensor_parallel": 4}, "--tensor-parallel 4 does not divide kv_heads 2"),
    ],
)
def test_parallelism_grid_that_does_not_fit_is_refused(changes, complaint):
    with pytest.raises(TrainingError, match=complaint):
        layout_of(options_for(**changes), Alone(rank=0, world_size=4, restart=0))
