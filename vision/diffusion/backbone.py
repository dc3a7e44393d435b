"""A latent diffusion model in diffusers' folders: VAE, UNet, text encoders, scheduler; and prompts as it wants them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vision.config import read_json
from vision.hub import write_index
from vision.libraries import library_errors, silent
from vision.weights import load_pretrained, load_tokenizer, read_tensors, save_tokenizer

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")


@dataclass(frozen=True)
class Text:
    """Encoded prompts."""

    embeds: Tensor
    """(b, tokens, width)."""
    pooled: Tensor | None = None
    """(b, width), of models that have a second encoder (SDXL)."""

    def __getitem__(self, rows: slice | list[int]) -> Text:
        """Some of the prompts."""
        return Text(self.embeds[rows], None if self.pooled is None else self.pooled[rows])


@dataclass
class TextEncoders:
    """One pair of tokenizer and encoder (Stable Diffusion 1.x and 2.x) or two (SDXL)."""

    tokenizers: tuple[Any, ...]
    """One or two."""
    encoders: tuple[nn.Module, ...]
    """One per tokenizer."""

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], *, truncate: bool = False) -> Text:
        """Encode prompts; `truncate` cuts those that are too long, with a warning.

        Raises:
            ValueError: a prompt is longer than the tokenizer's limit.
        """
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True):
            ids = token_ids(tokenizer, prompts, truncate=truncate).to(encoder.device)
            output = encoder(ids, output_hidden_states=len(self.encoders) > 1)
            if len(self.encoders) == 1:
                return Text(output[0])
            states.append(output.hidden_states[-2])
            pooled = output[0]
        return Text(torch.cat(states, dim=-1), pooled)


def token_ids(tokenizer: Any, prompts: Sequence[str], *, truncate: bool = False) -> Tensor:
    """(b, limit) int64, padded to the tokenizer's limit; `truncate` cuts longer ones, with a warning.

    Raises:
        ValueError: a prompt is longer than that.
    """
    limit = tokenizer.model_max_length
    found = []
    for prompt in prompts:
        ids = tokenizer(expand_concepts(tokenizer, prompt), padding="max_length", max_length=limit).input_ids
        if len(ids) > limit and truncate:
            warnings.warn(
                f"The prompt has {len(ids) - 2} tokens, but the text encoder reads {limit - 2}; the rest is cut off.",
                stacklevel=2,
            )
            ids = [*ids[: limit - 1], ids[-1]]
        elif len(ids) > limit:
            raise ValueError(
                f"The prompt has {len(ids) - 2} tokens, but at most {limit - 2} fit; shorten it: {prompt[:60]!r}."
            )
        found.append(ids)
    return torch.tensor(found)


def expand_concepts(tokenizer: Any, prompt: str) -> str:
    """The prompt with every concept that has several vectors spelled out: `<name>` -> `<name> <name>_1 ...`."""
    added = tokenizer.get_added_vocab()
    for token in added:
        more = []
        while f"{token}_{len(more) + 1}" in added:
            more.append(f"{token}_{len(more) + 1}")
        if more and token in prompt and more[0] not in prompt:
            prompt = prompt.replace(token, " ".join([token, *more]))
    return prompt


def add_concept(text: TextEncoders, path: str | Path, token: str | None = None) -> str:
    """Teach the first text encoder a textual inversion (Gal et al. 2022); returns the word to use in prompts.

    Args:
        path: safetensors file with `emb_params` or one tensor named by its word, (vectors, width) or (width,).
        token: the word; None takes the tensor's name, or the file's.

    Raises:
        ValueError: the file holds no such tensor, or the word is known already.
    """
    tensors = read_tensors(path)
    name, vectors = next(iter(tensors.items()), ("", torch.empty(())))
    if len(tensors) != 1 or vectors.ndim not in (1, 2):
        raise ValueError(f"{path} must hold one embedding, (vectors, width), but holds {len(tensors)} tensors.")
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    token = token or (Path(path).stem if name == "emb_params" else name)
    tokenizer, encoder = text.tokenizers[0], text.encoders[0]
    table = encoder.get_input_embeddings()
    if vectors.shape[1] != table.weight.shape[1]:
        raise ValueError(f"{path} is of width {vectors.shape[1]}, but the text encoder's is {table.weight.shape[1]}.")
    words = [token] + [f"{token}_{i}" for i in range(1, len(vectors))]
    known = [word for word in words if word in tokenizer.get_vocab()]
    if known:
        raise ValueError(f"The word {known[0]!r} is known already; give the concept another token.")
    tokenizer.add_tokens(words)
    encoder.resize_token_embeddings(max(len(tokenizer), table.weight.shape[0]), mean_resizing=False)
    with torch.no_grad():
        table = encoder.get_input_embeddings().weight
        table[tokenizer.convert_tokens_to_ids(words)] = vectors.to(table)
    return token


@dataclass
class Backbone:
    """The parts of a base model."""

    vae: nn.Module
    """AutoencoderKL of diffusers."""
    text: TextEncoders
    """Tokenizers and encoders."""
    scheduler: Any
    """Of diffusers, as it was saved."""
    folder: Path
    """Where the other parts lie."""


def load_backbone(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Backbone:
    """Load everything but the UNet from a Stable Diffusion folder.

    Raises:
        FileNotFoundError: the folder or one of its parts is missing.
        ValueError: a part does not load.
    """
    folder = Path(folder)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"The base folder {folder} lacks {', '.join(missing)}; it must be a whole Stable Diffusion folder in "
            f"diffusers' layout, with {', '.join((*PARTS, 'unet'))}."
        )
    return Backbone(
        load_vae(folder, dtype=dtype), load_text(folder, dtype=dtype), load_scheduler(folder / "scheduler"), folder
    )


def save_backbone(
    folder: Path,
    class_name: str,
    modules: Mapping[str, nn.Module],
    text: TextEncoders,
    scheduler: Any,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a whole Stable Diffusion folder; what is in memory stays as it is.

    Args:
        folder: to write.
        class_name: of the pipeline that it belongs to.
        modules: networks by the names of their sub-folders, text encoders excepted.
        text: tokenizers and text encoders.
        scheduler: of diffusers.
        dtype: of floating weights, when it is given.
    """
    modules, components = dict(modules), {}
    for i, (encoder, tokenizer) in enumerate(zip(text.encoders, text.tokenizers, strict=True)):
        suffix = f"_{i + 1}" if i else ""
        modules[f"text_encoder{suffix}"] = encoder
        save_tokenizer(tokenizer, folder / f"tokenizer{suffix}")
        components[f"tokenizer{suffix}"] = ("transformers", type(tokenizer).__name__)
    for name, module in modules.items():
        stored = module if dtype is None else nn.Module.to(copy.deepcopy(module), dtype)
        with silent():
            stored.save_pretrained(folder / name)
        place = type(module).__module__
        library = place.split(".")[0]
        components[name] = (library if library in ("diffusers", "transformers") else place, type(module).__name__)
    scheduler.save_pretrained(folder / "scheduler")
    components["scheduler"] = ("diffusers", type(scheduler).__name__)
    write_index(folder, class_name, components)


def load_vae(folder: Path, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The autoencoder of a Stable Diffusion folder; every tensor must match."""
    from diffusers import AutoencoderKL

    return load_pretrained(AutoencoderKL, folder / "vae", dtype=dtype)


def load_text(folder: Path, *, dtype: torch.dtype = torch.float32) -> TextEncoders:
    """Tokenizers and text encoders of a Stable Diffusion folder; a second pair is loaded where there is one.

    Raises:
        FileNotFoundError: a part is missing.
        ValueError: a part does not load, is not CLIP's, or the two of a pair do not fit each other.
    """
    import transformers

    pairs = []
    for suffix in ("", "_2"):
        own = folder / f"text_encoder{suffix}"
        if not own.is_dir():
            continue
        names = read_json(own / "config.json").get("architectures") or ["CLIPTextModel"]
        if names not in (["CLIPTextModel"], ["CLIPTextModelWithProjection"]):
            raise ValueError(f"{own} holds the architectures {names}; only CLIP's text encoders are supported.")
        encoder = load_pretrained(getattr(transformers, names[0]), own, dtype=dtype)
        tokenizer = load_tokenizer(transformers.AutoTokenizer, folder / f"tokenizer{suffix}")
        _check_pair(tokenizer, encoder, folder)
        pairs.append((tokenizer, encoder))
    if not pairs:
        raise FileNotFoundError(f"There is no text encoder in {folder}.")
    return TextEncoders(*zip(*pairs, strict=True))


def _check_pair(tokenizer: Any, encoder: nn.Module, folder: Path) -> None:
    limit, words = encoder.config.max_position_embeddings, encoder.get_input_embeddings().num_embeddings
    if not 2 <= tokenizer.model_max_length <= limit or len(tokenizer) > words:
        raise ValueError(
            f"The tokenizer in {folder} gives up to {tokenizer.model_max_length} tokens of {len(tokenizer)} words, but "
            f"the text encoder reads {limit} tokens of {words} words; take both from one model."
        )


def load_scheduler(folder: Path, default: str | None = None) -> Any:
    """The scheduler of a folder; `default` names another class of diffusers that takes over its noise schedule."""
    config = read_json(folder / "scheduler_config.json")
    with library_errors(f"{folder} does not load"):
        return make_scheduler(default or config.get("_class_name", ""), config)


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler of diffusers of this name with the noise schedule of a config.

    Raises:
        ValueError: diffusers has none of this name.
    """
    import diffusers

    cls = getattr(diffusers, name, None) if isinstance(name, str) and name.endswith("Scheduler") else None
    if cls is None:
        raise ValueError(f"diffusers has no scheduler {name!r}; names end in Scheduler, such as LCMScheduler.")
    return cls.from_config(config)
