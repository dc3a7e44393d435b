"""Pretrained folders: find, load, save and publish them.

A folder holds `config.json` and `model.safetensors` (one network), or `model_index.json` that names the class
of each component and one sub-folder per component. Loading is strict and runs no code from a folder; pickled
checkpoints are read by `scripts/convert.py` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vision.config import read_json, version
from vision.files import atomic_path

PACKAGES = ("vision", "restoration", "recon3d", "reward_vlm", "diffusers", "transformers")
PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle")
INDEX = "model_index.json"
ALIGNMENT = 64
"""Bytes; torch begins its own tensors on the CPU at multiples of it."""
_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    kind: Literal["builtin", "folder"]
    """"builtin": a configuration in the code with seeded random weights; "folder": files on this machine."""
    name: str
    """The name after `builtin:`, the folder's or file's name, or the `org/name@revision` that was fetched."""
    path: Path | None = None
    """The folder or `.safetensors` file; None for a builtin."""


def find(
    source: str | Path | None,
    *,
    default: Path | None,
    revision: str | None = None,
    components: tuple[str, ...] | None = None,
) -> Source:
    """Resolve what a user names as pretrained source.

    Args:
        source: `builtin:NAME`, an existing folder or `.safetensors` file (`folder:PATH` to be explicit),
            `org/name` or `org/name@revision` on the model hub (`hub:...` to be explicit), or None for the
            embedded default.
        default: folder of the embedded default.
        revision: branch, tag or commit on the hub; only for hub sources.
        components: sub-folders to fetch from the hub; None: those that the index of the repository names.

    Raises:
        FileNotFoundError: something that looks like a path does not exist, or the embedded default is
            missing.
        ValueError: the source has no known form, is a pickled checkpoint, or the hub does not deliver it.
    """
    if source is None:
        if default is None or not default.exists():
            raise FileNotFoundError(f"The embedded default weights are missing ({default}); name a source instead.")
        return _local(default, revision)
    text = str(source)
    scheme, _, rest = text.partition(":")
    if scheme in ("builtin", "folder", "hub") and not rest:
        raise ValueError(f"The source {text!r} names nothing after {scheme!r}.")
    if scheme == "builtin":
        _refuse_revision(text, revision)
        return Source("builtin", rest)
    if scheme == "hub":
        return _fetch(rest, revision, components)
    path = Path(rest if scheme == "folder" else text).expanduser()
    if path.exists():
        return _local(path, revision)
    if scheme == "folder" or isinstance(source, Path) or _looks_like_path(text):
        raise FileNotFoundError(f"There is no folder or file {path}.")
    return _fetch(text, revision, components)


def on_disk(source: str | Path | None, default: Path | None) -> Path | None:
    """The folder or file that holds a source's weights; None for `builtin:NAME` and for names on the model hub.

    Raises:
        FileNotFoundError: something that looks like a path does not exist.
        ValueError: it is a pickled checkpoint.
    """
    text = str(source)
    is_path = Path(text.removeprefix("folder:")).expanduser().exists() or _looks_like_path(text)
    if source is None or isinstance(source, Path) or is_path or text.startswith("folder:"):
        return find(source, default=default).path
    return None


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
    tensors = _read_tensors(path)
    own = module.state_dict()
    refuse_mismatch(path, own, tensors)
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinite weights in {first_names(broken)}; the file is damaged.")
    cast = {name: value.to(own[name].dtype) for name, value in tensors.items()}
    on_meta = any(value.is_meta for value in own.values())
    module.load_state_dict(cast, strict=True, assign=on_meta)
    align(module)
    if dtype is not None:
        module.to(dtype)


def align(module: nn.Module) -> nn.Module:
    """Move tensors that lie where a file had them to where torch's own would lie; returns the module.

    A mapped file puts tensors at any multiple of 8 bytes. Libraries of linear algebra sum in an order that depends on
    it, so that a network would give other last digits after saving and loading.
    """
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()
    return module


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


def write_index(folder: str | Path, class_name: str, components: Mapping[str, tuple[str, str]]) -> None:
    """Write `model_index.json`: the pipeline's class, and (module, class) of every component.

    Raises:
        ValueError: a module lies outside this project, diffusers and transformers.
    """
    for name, (module, cls) in components.items():
        _check_component(name, module, cls)
    content = {"_class_name": class_name, "_version": version()}
    content |= {name: [module, cls] for name, (module, cls) in components.items()}
    with atomic_path(Path(folder) / INDEX) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_index(folder: str | Path, class_name: str) -> dict[str, tuple[str, str]]:
    """(module, class) of every component that `model_index.json` names.

    Raises:
        FileNotFoundError: the folder has no index.
        ValueError: the index belongs to another class, is malformed, or names a module that is not allowed.
    """
    path = Path(folder) / INDEX
    data = read_json(path)
    saved_as = data.pop("_class_name", None)
    if saved_as != class_name:
        raise ValueError(f"{path} was saved from {saved_as}, but {class_name} was asked for.")
    components = {}
    for name, value in data.items():
        if name.startswith("_"):
            continue
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)):
            raise ValueError(f"{path}: {name!r} must be [module, class], got {value!r}.")
        _check_component(name, *value)
        components[name] = (value[0], value[1])
    return components


def push_to_hub(folder: str | Path, name: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload a saved folder to the model hub as `org/name`; returns its address.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the hub refuses (no login, no right, no network); the sentence says why.
    """
    import huggingface_hub

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} to upload.")
    try:
        api = huggingface_hub.HfApi()
        api.create_repo(name, exist_ok=True, private=private)
        api.upload_folder(repo_id=name, folder_path=folder, revision=revision)
    except _hub_errors() as error:
        raise ValueError(f"Cannot upload {folder} as {name!r}: {_reason(error)}") from error
    return f"https://huggingface.co/{name}"


def _local(path: Path, revision: str | None) -> Source:
    _refuse_revision(str(path), revision)
    if path.suffix in PICKLED:
        raise ValueError(
            f"{path} is a pickled checkpoint, which may run code when it is read; "
            "convert it once with scripts/convert.py and name the folder that it writes."
        )
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(f"{path} is neither a folder nor a .safetensors file.")
    return Source("folder", path.name, path)


def _refuse_revision(source: str, revision: str | None) -> None:
    if revision is not None:
        raise ValueError(f"A revision ({revision!r}) belongs to sources on the model hub, but the source is {source}.")


def _looks_like_path(text: str) -> bool:
    return text.startswith((".", "~", "/")) or text.endswith(("/", ".safetensors", *PICKLED)) or "\\" in text


def _fetch(text: str, revision: str | None, components: tuple[str, ...] | None) -> Source:
    """Download the files that the pipeline `org/name[@revision]` needs into the hub library's cache."""
    name, at, tail = text.partition("@")
    if at and revision is not None and revision != tail:
        raise ValueError(f"The source {text!r} names revision {tail!r}, but revision={revision!r} was given as well.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or (at and not tail):
        raise ValueError(
            f"The source {text!r} is neither builtin:NAME, an existing folder or .safetensors file, "
            "nor org/name[@revision]."
        )
    revision = tail or revision
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=[INDEX]))
        if components is None and (folder / INDEX).exists():
            components = tuple(key for key in read_json(folder / INDEX) if not key.startswith("_"))
        patterns = [f"{part}/{file}" for part in components or () for file in _FILES]
        patterns += ["README.md", INDEX] if components else list(_FILES)
        folder = Path(
            huggingface_hub.snapshot_download(
                name, revision=revision, allow_patterns=patterns, ignore_patterns=["*.fp16.*", "*.non_ema.*"]
            )
        )
    except _hub_errors() as error:
        raise ValueError(f"Cannot fetch {text!r} from the model hub: {_reason(error)}") from error
    return Source("folder", text, folder)


def _hub_errors() -> tuple[type[Exception], ...]:
    """What the hub library raises; the errors of some HTTP libraries that it was built on are no OSError."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    transport = [base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"]
    return (OSError, HFValidationError, *transport)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _weights_in(folder: Path, file: str) -> Path:
    if (folder / file).exists():
        return folder / file
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise ValueError(
            f"{folder} holds only the pickled checkpoint {pickled[0]}, which may run code when it is read; "
            "convert it once with scripts/convert.py."
        )
    raise FileNotFoundError(f"There is no {file} in {folder}.")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix in PICKLED:
        raise ValueError(f"{path} is a pickled checkpoint; convert it once with scripts/convert.py.")
    try:
        return load_file(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({_reason(error)}); "
            "if it is a pickled checkpoint, convert it once with scripts/convert.py."
        ) from error


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


def _check_component(name: str, module: str, cls: str) -> None:
    if module.split(".")[0] not in PACKAGES or not cls.isidentifier():
        raise ValueError(
            f"The component {name!r} names {module}.{cls}; only classes of this project, diffusers and "
            "transformers are allowed, and no code is loaded from a folder."
        )
