"""What trainings with TRL share: arguments, logs, checkpoints, datasets of messages, supervised training, and writing
the finished model."""

from __future__ import annotations

import dataclasses
import difflib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from reward_vlm.vlm import ChatModel, load_model
from vision.checkpoints import Log, forget_after, publish
from vision.config import check_trackers, one_line
from vision.files import Exclusive, append, atomic_folder, library_writes, part_of
from vision.libraries import silent
from vision.weights import save_tokenizer


def common_arguments(folder: Path, seed: int, save_every: int, trackers: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of TRL's configurations that every training here sets."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(folder),
        "seed": seed,
        "save_steps": save_every,
        "save_total_limit": 1,
        "logging_steps": 1,
        "report_to": list(trackers),
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported(including_emulation=False),
        "gradient_checkpointing": cuda,
        "dataloader_pin_memory": cuda,
    }


def configured(kind: Any, arguments: Mapping[str, Any]) -> Any:
    """A configuration of TRL for one device per process; `accelerate launch` starts more processes.

    Raises:
        ValueError: an argument is unknown, or needs a package that is not installed.
    """
    from transformers.integrations import get_available_reporting_integrations

    known = [field.name for field in dataclasses.fields(kind)]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; perhaps you meant {near[0]}" if near else ""
            raise ValueError(f"{kind.__name__} has no argument {name!r} (--trl){hint}.")
    if arguments.get("use_vllm") and find_spec("vllm") is None:
        raise ValueError("use_vllm needs the package vllm (pip install vllm) and a GPU.")
    named = arguments.get("report_to") or []
    check_trackers([named] if isinstance(named, str) else named, get_available_reporting_integrations())
    try:
        config = kind(**arguments)
    except (TypeError, ImportError) as error:
        raise ValueError(f"{kind.__name__} refuses its arguments (--trl): {one_line(str(error))}") from error
    if config.n_gpu > 1:  # TRL refuses to share a batch out over several GPUs inside one process
        config._n_gpu = 1
    return config


def first_process_first(folder: Path) -> AbstractContextManager[None]:
    """Inside, the first of several processes works before the others."""
    from transformers import TrainingArguments

    return TrainingArguments(**common_arguments(folder, 0, 1)).main_process_first(local=False)


def kept_start(folder: Path, save: Callable[[Path], object]) -> Path:
    """A copy of the weights that a run starts from, in its folder: a resumed run has them as well.

    Args:
        folder: of the run.
        save: writes the weights into a folder.
    """
    with first_process_first(folder):
        return publish(folder / "start", save)


def last_checkpoint(folder: Path) -> str | None:
    """TRL's newest complete checkpoint in a folder, with which a run goes on.

    What a kill left beside it is removed: incomplete checkpoints, older ones, and rows of `log.jsonl` that were logged
    after it, which will be logged again.
    """
    with first_process_first(folder):
        found = sorted(folder.glob("checkpoint-*"), key=_number)
        whole = [path for path in found if _is_complete(path)]
        for path in found:
            if path not in whole[-1:]:
                shutil.rmtree(path)
        forget_after(folder / "log.jsonl", _number(whole[-1]) if whole else -1)
    return str(whole[-1]) if whole else None


def _number(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _is_complete(checkpoint: Path) -> bool:
    """Whether the file is there, and whole, that is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return True


def go_on(trainer: Any, checkpoint: str | None) -> None:
    """Train to the end, from a checkpoint if there is one.

    Raises:
        ValueError: a checkpoint cannot be written, or the folder of the run was taken away.
    """
    from transformers import TrainerCallback

    folder = Path(trainer.args.output_dir)

    class StillThere(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            Exclusive.check(folder / "checkpoint")  # the trainer would make the folder anew

    trainer.add_callback(StillThere())
    with library_writes(folder):
        trainer.train(resume_from_checkpoint=checkpoint)


@torch.no_grad()
def load_checkpoint_weights(model: Any, checkpoint: str | None) -> None:
    """Put the weights of TRL's checkpoint into the model.

    transformers' trainer looks for the names of the modules, but the files hold the published names of the
    architecture: it would go on from the weights of the start, with no more than a warning.
    """
    if checkpoint is None or (Path(checkpoint) / "adapter_config.json").exists():  # adapters have the modules' names
        return
    with silent():
        saved = type(model).from_pretrained(checkpoint, dtype=model.dtype, local_files_only=True)
    model.load_state_dict(saved.state_dict())


def log_callback(path: Path, offset: int, say: Log) -> Any:
    """A TRL callback that writes what is logged to a JSON-lines file, with steps and tokens counted over all rounds
    and all processes that went on with the run."""
    from transformers import TrainerCallback

    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    tokens = next((row["num_tokens"] for row in map(json.loads, reversed(lines)) if "num_tokens" in row), 0)

    class Logger(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
            if not state.is_world_process_zero or "train_runtime" in (logs or {}):
                return
            step = offset + state.global_step
            row = {"step": step, **(logs or {})}
            if "num_tokens" in row:
                row["num_tokens"] += tokens
            log_row(path, row)
            if state.global_step % 10 == 0:
                shown = (
                    "loss", "reward", "kl_k1", "entropy", "completions/mean_length", "rewards/accuracies",
                    "rewards/margins",
                )  # fmt: skip
                said = "  ".join(f"{name} {float(logs[name]):.4g}" for name in shown if name in logs)
                say(f"{step}: {said}")

    return Logger()


def stop_callback(reached: Callable[[int], bool]) -> Any:
    """A TRL callback that asks after every checkpoint whether the training may end."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if reached(state.global_step):
                control.should_training_stop = True

    return Stop()


def quiet(trainer: Any) -> Any:
    """The trainer without the callback that prints every log."""
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def supervise(
    chat: ChatModel,
    dataset: Any,
    arguments: Mapping[str, Any],
    *,
    peft: Any = None,
    reached: Callable[[int], bool] | None = None,
    say: Log,
) -> Any:
    """Train on the completions of a dataset with TRL's SFTTrainer; goes on from the last checkpoint.

    Args:
        chat: is trained in place.
        dataset: columns prompt, images and completion, see `message_set`; the loss is on the completion alone.
        arguments: of SFTConfig; checkpoints and `log.jsonl` go to its output_dir.
        peft: adapters to train, None trains everything.
        reached: asked with the number of updates at every checkpoint; True ends the training.

    Returns:
        The trainer.
    """
    from trl import SFTConfig, SFTTrainer

    folder = Path(arguments["output_dir"])
    checkpoint = last_checkpoint(folder)
    load_checkpoint_weights(chat.model, checkpoint)
    callbacks = [log_callback(folder / "log.jsonl", 0, say)] + ([stop_callback(reached)] if reached else [])
    with torch.random.fork_rng(devices=[]):
        trainer = SFTTrainer(
            model=chat.model,
            processing_class=chat.guarded,
            args=configured(SFTConfig, {"max_length": None, "save_strategy": "steps", **arguments}),
            train_dataset=dataset,
            peft_config=peft,
            callbacks=callbacks,
        )
        done = 0 if checkpoint is None else _number(Path(checkpoint))
        if not (done and reached and reached(done)):  # a kill may follow the look
            go_on(quiet(trainer), checkpoint)
    return trainer


def message_set(
    images: Iterable[Sequence[Any]], messages: Mapping[str, Iterable[Sequence[Mapping[str, Any]]]], **texts: list[Any]
) -> Any:
    """A `datasets.Dataset` with the column images, columns of messages and columns of lists of texts.

    Picture files are read when a batch needs them.

    Args:
        images: of every row, PIL images or paths.
        messages: name of a column -> {role, content} messages of every row.
        texts: name of a column -> a list of texts for every row.
    """
    from datasets import Dataset, Features, Image, List, Value

    block = {"type": Value("string"), "text": Value("string")}
    features: dict[str, Any] = {"images": List(Image(mode="RGB"))}
    features |= {name: List({"role": Value("string"), "content": List(block)}) for name in messages}
    features |= {name: List(Value("string")) for name in texts}
    columns: dict[str, list[Any]] = {
        "images": [[str(image) if isinstance(image, Path) else image for image in row] for row in images]
    }
    columns |= {name: [_blocks(row) for row in rows] for name, rows in messages.items()}
    return Dataset.from_dict(columns | texts, features=Features(features))


def finish(trainer: Any, processor: Any, weights: Path, complete: Callable[[Path], object] | None = None) -> Path:
    """Write the trained model; shared-out weights are put together by TRL, adapters are added to the run's `start`.

    Args:
        weights: folder that appears when it is complete.
        complete: adds files to the folder before that.
    """
    main = trainer.accelerator.is_main_process
    with atomic_folder(weights) if main else nullcontext(part_of(weights)) as part:
        trainer.accelerator.wait_for_everyone()
        model = trainer.accelerator.unwrap_model(trainer.model)
        with silent(), library_writes(weights):
            if not hasattr(model, "merge_and_unload"):
                trainer.save_model(str(part))
            else:
                trainer.save_model(str(part / "adapters"))  # all processes take part where weights are shared out
                if main:
                    _merge(model, part, weights.with_name("start"))
        if main:
            save_tokenizer(processor, part)
            if complete is not None:
                complete(part)
            (part / "training_args.bin").unlink(missing_ok=True)
    trainer.accelerator.wait_for_everyone()
    return weights


def _merge(model: Any, folder: Path, start: Path) -> None:
    """Write the weights of the start, with the adapters that lie in the folder added to them, there instead."""
    from peft import PeftModel

    base = load_model(start, model.dtype)[0]
    PeftModel.from_pretrained(base, folder / "adapters").merge_and_unload().save_pretrained(folder)
    shutil.rmtree(folder / "adapters")


def log_row(path: Path, row: dict[str, Any]) -> None:
    """Append a row to a JSON-lines file."""
    append(path, json.dumps(row) + "\n")


def _blocks(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose contents are all lists of blocks with the same keys."""

    def blocks(content: Any) -> list[dict[str, Any]]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        return [{"type": block["type"], "text": block.get("text") or ""} for block in content]

    return [{"role": message["role"], "content": blocks(message["content"])} for message in messages]
