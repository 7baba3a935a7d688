"""Small programs that start libraries or tools of a vendor's image: options and passed arguments."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

CONTAINERS = Path(__file__).parents[2] / "containers"


def program(target: str, name: str) -> ModuleType:
    path = CONTAINERS / target / "src" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{target}-{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("environment", "nodes", "gpus"),
    [({}, "1", "1"), ({"LOCAL_WORLD_SIZE": "8", "WORLD_SIZE": "16"}, "2", "8")],
)
def test_bionemo_gets_the_node_and_gpu_counts_of_torchrun(
    environment: dict[str, str], nodes: str, gpus: str
) -> None:
    found = program("bionemo", "pretrain").arguments(["--num-steps", "3"], environment)
    assert found == ["--num-nodes", nodes, "--num-gpus", gpus, "--num-steps", "3"]


def test_options_of_megatron_bridge_replace_only_the_given_recipe_values() -> None:
    bridge = program("megatron-bridge", "pretrain")
    config = SimpleNamespace(
        model=SimpleNamespace(tensor_model_parallel_size=1, seq_length=4096),
        train=SimpleNamespace(train_iters=1000, global_batch_size=512),
        dataset=SimpleNamespace(sequence_length=4096, blend=None),
        checkpoint=SimpleNamespace(save="a", load="a"),
    )
    words = ["--recipe", "x.y", "--steps", "5", "--tensor-parallel", "8", "--sequence-length", "128"]
    bridge.adapt(config, bridge.parse([*words, "--data", "/data/a", "--checkpoint-dir", "/c"]))
    assert (config.train.train_iters, config.train.global_batch_size) == (5, 512)
    assert (config.model.tensor_model_parallel_size, config.model.seq_length) == (8, 128)
    assert (config.dataset.sequence_length, config.dataset.blend) == (128, (["/data/a"], None))
    assert (config.checkpoint.save, config.checkpoint.load) == ("/c", "/c")


def test_error_for_an_unknown_recipe_lists_the_known_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = program("megatron-bridge", "pretrain")
    monkeypatch.setattr(bridge, "RECIPES", "recipes_of_a_test")
    (tmp_path / "recipes_of_a_test").mkdir()
    (tmp_path / "recipes_of_a_test" / "gpt.py").write_text("def tiny_pretrain_config(): return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert bridge.find_recipe("gpt.tiny_pretrain_config")() == 1
    with pytest.raises(SystemExit, match=r"no such recipe; gpt has tiny_pretrain_config"):
        bridge.find_recipe("gpt.tiny")
    with pytest.raises(SystemExit, match=r"--recipe bert.tiny: No module named"):
        bridge.find_recipe("bert.tiny")
    sys.modules.pop("recipes_of_a_test", None)


def test_only_chosen_ranks_run_under_the_profiler() -> None:
    profiled = program("nsight", "profiled")
    options = profiled.parse(["--output-dir", "/p", "--ranks", "0,8", "train.py", "--smoke"])
    under = profiled.command(options, {"RANK": "8"})
    assert under[:2] == ["nsys", "profile"]
    assert "--output=/p/rank-8" in under
    assert under[-3:] == [sys.executable, "train.py", "--smoke"]
    assert profiled.command(options, {"RANK": "1"}) == [sys.executable, "train.py", "--smoke"]
    everyone = profiled.parse(["--ranks", "all", "train.py"])
    assert profiled.command(everyone, {"RANK": "1"})[0] == "nsys"


def test_wrong_profiler_ranks_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program("nsight", "profiled").parse(["--ranks", "0-3", "train.py"])
    assert "--ranks 0-3: must be numbers with commas between them, or all" in capsys.readouterr().err
