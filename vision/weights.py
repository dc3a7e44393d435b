"""Weights in files: read, checked and written, for our networks and those of diffusers and transformers.

Loading is strict and runs no code; pickled checkpoints are read by `burnish convert` alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vision.files import atomic_path
from vision.libraries import library_errors, silent

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
ALIGNMENT = 64
"""Bytes; torch begins its own tensors on the CPU at multiples of it."""


def load_weights(
    module: nn.Module, path: str | Path, *, dtype: torch.dtype | None = None, file: str = "model.safetensors"
) -> None:
    """Fill `module` with the tensors of a safetensors file; every tensor of both must match.

    Args:
        module: a network of the right configuration; one on the meta device gets its tensors on the CPU.
        path: the file, or the folder that holds `file`.
        dtype: floating type that the module gets; None: it keeps its own, whatever type the file has.
        file: name of the weights inside a folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, tensors are missing, unexpected or have other shapes (the first
            five are named), or weights are NaN or infinite.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path, file)
    fill(module, read_tensors(path), path, dtype=dtype)


def fill(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: Path | str,
    *,
    dtype: torch.dtype | None = None,
    whole: str = "this network",
) -> None:
    """Fill `module` with tensors; every tensor of both must match.

    Args:
        module: one on the meta device gets its tensors on the CPU.
        tensors: by their names in the module.
        source: where they come from, for the sentences.
        dtype: floating type that the module gets; None: it keeps its own.
        whole: what they must fit, for the sentences.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen, NaN or infinite (the first five are named).
    """
    own = module.state_dict()
    refuse_mismatch(source, own, tensors, whole)
    refuse_infinite(source, tensors)
    cast = {
        name: value.to(dtype if dtype is not None and own[name].is_floating_point() else own[name].dtype)
        for name, value in tensors.items()
    }
    module.load_state_dict(cast, strict=True, assign=any(value.is_meta for value in own.values()))
    align(module)
    if dtype is not None:
        nn.Module.to(module, dtype)  # diffusers' own `to` warns


def load_pretrained(cls: Any, folder: str | Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A network of diffusers or transformers from its folder, on the CPU and in evaluation mode.

    Args:
        cls: the class, whose `from_pretrained` reads the folder.
        folder: holds config.json and safetensors; those called fp16 are taken where there are no others.
        dtype: floating type that the network gets.
        options: further arguments of `from_pretrained`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it does not load, holds pickled weights alone, or tensors are missing, unexpected or misshapen, NaN
            or infinite (the first five are named).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    files = [path.name for path in folder.glob("*.safetensors")]
    if not files:
        refuse_pickled(folder)
    elif all(".fp16" in name for name in files):
        options["variant"] = "fp16"
    library = cls.__module__.split(".")[0]
    options |= {"torch_dtype": dtype} if library == "diffusers" else {"dtype": dtype, "trust_remote_code": False}
    if library == "transformers":
        options["ignore_mismatched_sizes"] = True  # they are reported instead, and refused below
    with library_errors(f"{folder} does not load"), silent():
        _refuse_larger(cls, folder)
        module, report = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    kinds = {"missing_keys": "lacks", "unexpected_keys": "has the unexpected", "mismatched_keys": "has the misshapen"}
    reasons = [
        f"{verb} {first_names(sorted(name if isinstance(name, str) else str(name[0]) for name in report[kind]))}"
        for kind, verb in kinds.items()
        if report.get(kind)
    ]
    if reasons:
        raise ValueError(f"{folder} does not fit its config: it {', and it '.join(reasons)}.")
    refuse_infinite(folder, module.state_dict())
    return align(module.eval())


def _refuse_larger(cls: Any, folder: Path) -> None:
    """
    Raises:
        ValueError: the network of config.json has more than twice the numbers that the folder holds (tied ones
            are stored once): it would be filled with random ones first.
    """
    from accelerate import init_empty_weights
    from safetensors import safe_open

    stored = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            stored += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    if cls.__module__.startswith("diffusers"):
        with init_empty_weights():
            network = cls.from_config(cls.load_config(folder, local_files_only=True))
    else:
        from transformers import AutoConfig

        kind = getattr(cls, "config_class", None) or AutoConfig
        config = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, "quantization_config", None) is not None:
            return
        with init_empty_weights():
            network = cls(config) if kind is not AutoConfig else cls.from_config(config, trust_remote_code=False)
    described = sum(tensor.numel() for tensor in network.parameters())
    if described > 2 * stored:
        raise ValueError(f"its config describes a network of {described:,} numbers, and its weights hold {stored:,}")


def load_tokenizer(cls: Any, folder: str | Path, **options: Any) -> Any:
    """A tokenizer or processor of transformers from its folder, without code from it.

    Args:
        cls: the class, such as AutoTokenizer.
        folder: holds its files.
        options: further arguments of `from_pretrained`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it does not load.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    with library_errors(f"{folder} does not load"), silent():
        found = cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    limit = getattr(getattr(found, "tokenizer", found), "model_max_length", 0)
    if not isinstance(limit, (int, float)):
        raise ValueError(f"model_max_length of the tokenizer in {folder} must be a number, got {limit!r}.")
    return found


def save_tokenizer(tokenizer: Any, folder: str | Path) -> None:
    """Write a tokenizer, or a processor with its own, to a folder, without how its last call padded and cut."""
    own = getattr(tokenizer, "tokenizer", tokenizer)
    if (backend := getattr(own, "backend_tokenizer", None)) is not None:
        backend.no_padding()
        backend.no_truncation()
    tokenizer.save_pretrained(folder)


def save_weights(
    module: nn.Module,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    file: str = "model.safetensors",
) -> None:
    """Write the tensors of `module` to `folder/file` as safetensors, floating ones as `dtype` when it is
    given."""
    from safetensors.torch import save_file

    def stored(value: Tensor) -> Tensor:
        value = value.detach().cpu()
        return (value.to(dtype) if dtype is not None and value.is_floating_point() else value).clone().contiguous()

    tensors = {name: stored(value) for name, value in module.state_dict().items()}
    with atomic_path(Path(folder) / file) as part:
        save_file(tensors, part, metadata={"format": "pt"})


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is a pickled checkpoint, or cannot be read.
    """
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix in PICKLED:
        raise ValueError(f"{path} is a pickled checkpoint; convert it once with scripts/convert.py.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    with library_errors(
        f"{path} is not a readable safetensors file (a pickled checkpoint must be converted with scripts/convert.py)"
    ):
        return load_file(path)


def align(module: nn.Module) -> nn.Module:
    """Move tensors that lie where a file had them to where torch's own would lie; returns the module.

    A mapped file puts tensors at any multiple of 8 bytes. Libraries of linear algebra sum in an order that depends on
    it, so that a network would give other last digits after saving and loading.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    return module


class WithoutNumbers(TorchFunctionMode):
    """While it is entered, networks are built without drawing first weights: theirs are loaded afterwards.

    Random generators are left alone. (On the meta device some operations of a constructor would import torch's
    compiler, which takes seconds.)
    """

    def __torch_function__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Initialisers do nothing, random tensors hold whatever was in memory; all else is as always."""
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if function in (torch.rand, torch.randn) else function)(*args, **(kwargs or {}))


def refuse_pickled(folder: Path) -> None:
    """
    Raises:
        ValueError: the folder, which has no safetensors, holds a pickled checkpoint.
    """
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise ValueError(
            f"{folder} holds only the pickled checkpoint {pickled[0]}, which may run code when it is read; "
            "convert it once with scripts/convert.py."
        )


def refuse_infinite(source: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """
    Raises:
        ValueError: tensors hold NaN or infinite numbers (the first five are named).
    """
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{source} holds NaN or infinite weights in {first_names(broken)}; the file is damaged.")


def refuse_mismatch(
    source: Path | str, own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], whole: str = "this network"
) -> None:
    """Compare the tensors of a file with those of a network, `whole`.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen (the first five are named).
    """
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    found = [("lacks", missing), ("has the unexpected", unexpected), ("has the misshapen", misshapen)]
    reasons = [f"{verb} {first_names(names)}" for verb, names in found if names]
    if reasons:
        raise ValueError(f"{source} does not fit {whole}: it {', and it '.join(reasons)}.")


def first_names(names: list[str], count: int = 5) -> str:
    """The first few names, for a sentence."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _weights_in(folder: Path, file: str) -> Path:
    if (folder / file).exists():
        return folder / file
    refuse_pickled(folder)
    raise FileNotFoundError(f"There is no {file} in {folder}.")
