"""Pretrained folders: find, name their parts, save and publish them.

A folder holds `config.json` and `model.safetensors` (one network), or `model_index.json` that names the class
of each component and one sub-folder per component; `vision.weights` reads what lies inside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import nn
from typing_extensions import Self

from vision.cards import write_card
from vision.config import read_json, version
from vision.files import atomic_path
from vision.weights import PICKLED

PACKAGES = ("vision", "restoration", "recon3d", "reward_vlm", "diffusers", "transformers")
INDEX = "model_index.json"
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
    if not text:
        raise ValueError("The source of the weights is an empty name; leave it out for those that come along.")
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
    is_path = Path(text.removeprefix("folder:")).expanduser().exists() or _looks_like_path(text)  # "" too, for `find`
    if source is None or isinstance(source, Path) or is_path or text.startswith("folder:"):
        return find(source, default=default).path
    return None


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

    task: ClassVar[str] = "image-to-image"
    """What the model hub calls what it does, see `vision.cards.TASKS`."""

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a folder that `from_pretrained` reads, floating weights as `dtype` when it is given."""
        raise NotImplementedError

    def push_to_hub(
        self,
        name: str,
        folder: str | Path,
        *,
        private: bool = False,
        revision: str | None = None,
        license: str | None = None,
    ) -> str:
        """Save to `folder` and upload it to the model hub as `org/name`; returns its address. See `push_to_hub`.

        A model card that lies in the folder goes along; where there is none, one is written.

        Args:
            license: of the weights, for a card that is written: the hub's short name, such as apache-2.0.
        """
        self.save_pretrained(folder)
        write_card(folder, name, type(self).__name__, self.task, license)
        return push_to_hub(folder, name, private=private, revision=revision)


class OfNetworks(Pretrained):
    """What consists of torch networks, which move together."""

    unshipped: ClassVar[str] = ""
    """What a user is told who names no source, where no weights come with the project."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load all networks, with `from_folder` or `builtin`.

        Args:
            source: folder, `org/name` on the model hub, or `builtin:tiny`.
            revision: of a hub source.
            device, dtype: where and in what numbers to compute.

        Raises:
            FileNotFoundError: the folder, or a component in it, is missing.
            ValueError: no source is given, or a component does not load.
        """
        if source is None:
            raise ValueError(cls.unshipped)
        found = find(source, default=None, revision=revision)
        if found.kind == "builtin":
            return cls.builtin(found.name).to(device, dtype)
        return cls.from_folder(found.path, dtype).to(device)

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype) -> Self:
        """What a folder (or file) holds, on the CPU, in numbers of this type."""
        raise NotImplementedError

    @classmethod
    def builtin(cls, name: str) -> Self:
        """`builtin:NAME`: a small configuration with seeded random weights.

        Raises:
            ValueError: there is none of this name.
        """
        raise NotImplementedError

    @property
    def networks(self) -> Sequence[nn.Module]:
        """All of them; the first one tells where they are."""
        raise NotImplementedError

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move the networks; returns this object."""
        for network in self.networks:
            nn.Module.to(network, device=device, dtype=dtype)  # diffusers' own `to` warns
        return self

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks[0].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return next(self.networks[0].parameters()).dtype


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


def _check_component(name: str, module: str, cls: str) -> None:
    if module.split(".")[0] not in PACKAGES or not cls.isidentifier():
        raise ValueError(
            f"The component {name!r} names {module}.{cls}; only classes of this project, diffusers and "
            "transformers are allowed, and no code is loaded from a folder."
        )
