"""GRPO with the trainer of TRL: checkpoints, metrics, stops and the result of a run."""

import json
import os
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from time import monotonic
from typing import Any

from datasets import Dataset
from safetensors import SafetensorError
from torch.distributed.elastic.multiprocessing.errors import record
from transformers import PrinterCallback, TrainerCallback
from transformers.utils.logging import disable_progress_bar
from trl import GRPOConfig, GRPOTrainer

from models import load_model
from prompts import choose_reward, read_prompts
from training.checkpoint import Progress
from training.errors import EXIT_TERMINATED, DataError, StorageError, TrainingError
from training.saving import Checkpointer, done
from training.stopping import StopRequest
from training.torch_ranks import TorchRanks, connect


class Grpo(GRPOTrainer):
    """Trainer of TRL that writes its checkpoints with the shared Checkpointer, if it has one."""

    identity: dict[str, str | int]
    checkpointer: Checkpointer | None = None
    resumed_from: Path | None = None
    _partial: Path | None = None

    def save(self, folder: Path) -> "Future[object]":
        self._partial = folder
        try:
            # The method of TRL writes a model card as well.
            super(GRPOTrainer, self)._save_checkpoint(self.model, None)
        except (RuntimeError, SafetensorError) as error:  # hide the OSError of a full disk
            raise StorageError(f"{folder}: {error}") from error
        # Every rank writes the state of its random generators, the first rank all other files.
        own = "*" if self.args.should_save else f"rng_state_{self.args.process_index}.pth"
        for path in folder.rglob(own):
            if path.is_file():
                flush(path)
        return done()

    def load(self, folder: Path) -> None:
        (self.resumed_from,) = folder.glob("checkpoint-*")

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._partial) if self._partial else super()._get_output_dir(trial)

    def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
        if self.checkpointer:
            self.checkpointer.save(Progress(step=self.state.global_step), {})
            self.checkpointer.wait()


class Reporter(TrainerCallback):
    """Writes rewards to the metrics file, and stops all ranks with a checkpoint if any rank gets SIGTERM."""

    def __init__(
        self, options: Namespace, ranks: TorchRanks, stop: StopRequest, traced: Callable[[], None]
    ) -> None:
        self._options, self._ranks, self._stop, self._traced = options, ranks, stop, traced
        self._last = monotonic()
        self.rewards: list[float] = []

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "reward" not in logs:
            return
        self.rewards.append(float(logs["reward"]))
        self._ranks.say(f"step {state.global_step}/{self._options.steps}  reward {self.rewards[-1]:.4f}")
        now = monotonic()
        line = {"restart": self._ranks.restart, "step": state.global_step, "loss": logs.get("loss")}
        line |= {"reward": self.rewards[-1], "seconds": round(now - self._last, 6)}
        self._last = now
        self._ranks.together(lambda: self._append(json.dumps(line)))

    def _append(self, line: str) -> None:
        if self._options.metrics and self._ranks.is_first:
            with self._options.metrics.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> Any:
        self._traced()
        if any(self._ranks.gather(self._stop.received)):
            control.should_save = control.should_training_stop = True
        return control


@record
def run(options: Namespace) -> int:
    """Train and print the result; return 0 if all steps were done, else EXIT_TERMINATED."""
    stop = StopRequest()
    disable_progress_bar()
    with connect(options) as ranks, ranks.profiled(options) as traced:
        reporter = Reporter(options, ranks, stop, traced)
        trainer = make_trainer(options, ranks, reporter)
        resumed_from_step = 0
        if options.checkpoint_dir:
            trainer.checkpointer = Checkpointer(trainer, options, ranks)
            resumed_from_step = trainer.checkpointer.resume()[0].step
        trainer.train(resume_from_checkpoint=str(trainer.resumed_from) if trainer.resumed_from else None)
        steps = trainer.state.global_step
        if ranks.is_first:
            rewards = reporter.rewards or [float("nan")]
            result = {
                "program": "trl-grpo",
                "framework": ranks.framework,
                "device": ranks.device_type,
                "backend": ranks.backend,
                "world_size": ranks.world_size,
                "parameters": trainer.model.num_parameters(),
                "steps": steps,
                "finished": steps >= options.steps,
                "restarts": ranks.restart,
                "resumed_from_step": resumed_from_step,
                "first_reward": rewards[0],
                "last_reward": sum(rewards[-4:]) / len(rewards[-4:]),
            }
            print(json.dumps(result), flush=True)
    return 0 if steps >= options.steps else EXIT_TERMINATED


def make_trainer(options: Namespace, ranks: TorchRanks, reporter: Reporter) -> Grpo:
    answers = options.batch_size * ranks.world_size
    if options.generations < 2 or answers % options.generations:
        raise TrainingError(
            f"--generations {options.generations} must be at least 2 and divide --batch-size "
            f"{options.batch_size} x {ranks.world_size} ranks"
        )
    reward = ranks.together(lambda: choose_reward(options))
    prompts = ranks.together(lambda: read_prompts(options))
    # The trainer ends at once, without an error, if the prompts do not fill a step.
    if len(prompts) < answers // options.generations:
        raise DataError(
            f"a step takes {answers // options.generations} prompts, but the data have {len(prompts)}; "
            "add prompts, or raise --generations"
        )
    model, tokenizer = ranks.together(lambda: load_model(options.model))
    trainer = Grpo(
        model=model,
        processing_class=tokenizer,
        reward_funcs=reward,
        args=trainer_options(options, ranks),
        train_dataset=Dataset.from_list(prompts),
        callbacks=[reporter],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.identity = {"program": "trl-grpo", "model": str(options.model or "tiny"), "seed": options.seed}
    return trainer


def trainer_options(options: Namespace, ranks: TorchRanks) -> GRPOConfig:
    on_gpu = ranks.device_type == "cuda"
    return GRPOConfig(
        output_dir=str(options.checkpoint_dir or "/tmp/trl-grpo"),
        save_strategy="steps" if options.checkpoint_dir else "no",
        save_steps=options.checkpoint_every,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        num_generations=options.generations,
        max_completion_length=options.completion_tokens,
        learning_rate=options.learning_rate,
        lr_scheduler_type="constant",
        logging_steps=options.log_every,
        seed=options.seed,
        ddp_timeout=options.timeout_s,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        gradient_checkpointing=on_gpu,
        report_to="none",
        disable_tqdm=True,
    )


def flush(path: Path) -> None:
    """Wait until a file is on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
