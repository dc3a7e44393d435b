"""Pretrained folders: find, load, save and publish them.

A folder holds `config.json` and `model.safetensors` (one network), or `model_index.json` that names the class
of each component and one sub-folder per component. Loading is strict, for the networks of diffusers and transformers
too, and runs no code from a folder; pickled checkpoints are read by `scripts/convert.py` alone. What those libraries
raise becomes one sentence here (`library_errors`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vision.config import one_line, read_json, version
from vision.files import atomic_path
from vision.signals import check_signals

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
        folder: holds config.json and safetensors.
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
    if not any(folder.glob("*.safetensors")):
        refuse_pickled(folder)
    library = cls.__module__.split(".")[0]
    options |= {"torch_dtype": dtype} if library == "diffusers" else {"dtype": dtype, "trust_remote_code": False}
    with library_errors(f"{folder} does not load"), silent():
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
        return cls.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


class library_errors:
    """What diffusers, transformers, tokenizers and safetensors raise inside, as a ValueError of one sentence.

    Their ways of refusing a file range from AttributeError to Exception itself. A signal that a library turned into an
    error stays one.

    Args:
        what: how the sentence begins, such as "folder does not load".
    """

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is Exception or isinstance(error, _raised_by_libraries()):
            check_signals()
            reason = f"it lacks the entry {error}" if isinstance(error, KeyError) else one_line(str(error))[:300]
            raise ValueError(f"{self.what}: {reason.rstrip('.') or kind.__name__}.") from error


@contextmanager
def silent() -> Iterator[None]:
    """Without messages and progress bars of those of diffusers and transformers that are in use."""
    found = [sys.modules.get(f"{name}.utils.logging") for name in ("diffusers", "transformers")]
    found = [(logging, logging.get_verbosity(), logging.is_progress_bar_enabled()) for logging in found if logging]
    for logging, _, _ in found:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging, level, bars in found:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()


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


class Pretrained:
    """What has weights that can be saved and published."""

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, floating weights as `dtype` when it is given."""
        raise NotImplementedError

    def push_to_hub(self, name: str, folder: str | Path, *, private: bool = False, revision: str | None = None) -> str:
        """Save to `folder` and upload it to the model hub as `org/name`; returns its address. See `push_to_hub`."""
        self.save_pretrained(folder)
        return push_to_hub(folder, name, private=private, revision=revision)


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


def _raised_by_libraries() -> tuple[type[Exception], ...]:
    """Everything but Exception itself that the libraries were seen to raise about a file."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    python = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError)
    return (*python, OSError, RuntimeError, TypeError, ValueError, SafetensorError, StrictDataclassError)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _weights_in(folder: Path, file: str) -> Path:
    if (folder / file).exists():
        return folder / file
    refuse_pickled(folder)
    raise FileNotFoundError(f"There is no {file} in {folder}.")


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


def _check_component(name: str, module: str, cls: str) -> None:
    if module.split(".")[0] not in PACKAGES or not cls.isidentifier():
        raise ValueError(
            f"The component {name!r} names {module}.{cls}; only classes of this project, diffusers and "
            "transformers are allowed, and no code is loaded from a folder."
        )
