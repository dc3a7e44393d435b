"""Prompts from what is seen in the picture: a caption, its class, or the objects in it (PASD, section 3.3).

The recognisers are functions of a PIL image, so that any model can be used. Those here need weights of their libraries
(open_clip, torchvision, ultralytics), which are fetched when they are built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import PIL.Image
import torch

Describe = Literal["none", "caption", "classes", "objects"]
Caption = Callable[[PIL.Image.Image], str]
Classes = Callable[[PIL.Image.Image], Sequence[tuple[str, float]]]
"""Names and probabilities, best first."""
Objects = Callable[[PIL.Image.Image], Sequence[str]]
"""The name of every object that was found."""

CAPTION_MODEL = ("coca_ViT-L-14", "mscoco_finetuned_laion2B-s13B-b90k")
LEAST_PROBABILITY = 0.1
"""Classes that are less probable are not named."""
CLEANED = {"blurry": "clear", "noisy": "clean"}
"""Words of a caption that describe the faults, and what they become."""


def prompt_with_classes(prompt: str, classes: Sequence[tuple[str, float]], *, as_published: bool = False) -> str:
    """The prompt, then the most probable class.

    Args:
        as_published: forget the prompt too when no class is probable, as the published code does.
    """
    name, probability = max(classes, key=lambda pair: pair[1], default=("", 0.0))
    if probability < LEAST_PROBABILITY:
        return "" if as_published else plain_prompt(prompt)
    return f"{plain_prompt(prompt)}{name}, "


def prompt_with_objects(prompt: str, names: Sequence[str]) -> str:
    """The prompt, then how many there are of each object, in the order in which they were found first."""
    return plain_prompt(prompt) + "".join(f"{count} {name}, " for name, count in Counter(names).items())


def prompt_with_caption(prompt: str, caption: str, separator: str = " ") -> str:
    """The caption, freed of its marks and of words for faults, then the prompt."""
    caption = caption.split("<end_of_text>")[0].replace("<start_of_text>", "")
    for fault, word in CLEANED.items():
        caption = caption.replace(fault, word)
    return f"{caption}{separator}{prompt}" if prompt else caption


def plain_prompt(prompt: str) -> str:
    """The prompt, ready for more to follow."""
    return f"{prompt}, " if prompt else ""


def full_prompt(prompt: str, added: str, colorize: bool = False) -> str:
    """The prompt with the words that every restoration gets; for colourization in colour and without them."""
    return prompt.replace("black and white", "color") if colorize else prompt + added


class Describer:
    """Makes prompts from pictures.

    Args:
        kind: what to look for.
        recognise: the recogniser of that kind; None builds the one of the library.
        device: where a library's model runs.
    """

    def __init__(self, kind: Describe, recognise: Callable[..., Any] | None = None, device: str | torch.device = "cpu"):
        if kind not in BUILDERS and kind != "none":
            raise ValueError(f"describe must be none, {', '.join(BUILDERS)}, got {kind!r}.")
        self.kind, self.recognise, self.device = kind, recognise, device

    def __call__(self, picture: PIL.Image.Image, prompt: str = "") -> str:
        """The prompt for a picture, before the added words."""
        if self.kind == "none":
            return plain_prompt(prompt)
        if self.recognise is None:
            self.recognise = BUILDERS[self.kind](self.device)
        found = self.recognise(picture)
        if self.kind == "caption":
            return prompt_with_caption(prompt, found)
        return prompt_with_classes(prompt, found) if self.kind == "classes" else prompt_with_objects(prompt, found)


def coca_caption(device: str | torch.device = "cpu") -> Caption:
    """The captioner that the published code uses, through open_clip."""
    import open_clip

    with _weights("the captioner CoCa of open_clip"):
        model, _, transform = open_clip.create_model_and_transforms(CAPTION_MODEL[0], pretrained=CAPTION_MODEL[1])
    model = model.to(device).eval()

    @torch.no_grad()
    def caption(picture: PIL.Image.Image) -> str:
        tokens = model.generate(transform(picture.convert("RGB"))[None].to(device))
        return open_clip.decode(tokens[0])

    return caption


def imagenet_classes(device: str | torch.device = "cpu") -> Classes:
    """torchvision's ResNet-50."""
    from torchvision.models import ResNet50_Weights, resnet50

    weights = ResNet50_Weights.DEFAULT
    with _weights("torchvision's classifier ResNet-50"):
        model = resnet50(weights=weights)
    return classifier(model.to(device).eval(), weights.transforms(), weights.meta["categories"])


def classifier(model: torch.nn.Module, transform: Callable[..., Any], names: Sequence[str], best: int = 5) -> Classes:
    """A recogniser of a torchvision or timm classifier (logits), its transform and the names of its classes."""

    @torch.no_grad()
    def classes(picture: PIL.Image.Image) -> list[tuple[str, float]]:
        device = next(model.parameters()).device
        chances = model(transform(picture.convert("RGB"))[None].to(device))[0].float().softmax(dim=0)
        top = chances.topk(min(best, len(names)))
        return [(names[i], float(chance)) for chance, i in zip(top.values, top.indices.tolist(), strict=True)]

    return classes


def yolo_objects(device: str | torch.device = "cpu") -> Objects:
    """The detector that the published code uses, where its library is installed."""
    try:
        from ultralytics import YOLO
    except ImportError:
        raise ValueError(
            "Describing objects needs the library ultralytics; install it, describe by caption or classes, "
            "or give a function of your own."
        ) from None
    with _weights("the detector YOLOv8n of ultralytics"):
        model = YOLO("yolov8n.pt")

    def objects(picture: PIL.Image.Image) -> list[str]:
        found = model.predict(picture.convert("RGB"), imgsz=640, verbose=False, device=str(device))[0]
        return [found.names[int(i)] for i in found.boxes.cls.tolist()]

    return objects


BUILDERS: dict[str, Callable[[str | torch.device], Callable[..., Any]]] = {
    "caption": coca_caption,
    "classes": imagenet_classes,
    "objects": yolo_objects,
}


class _weights:
    """Failures to fetch a recogniser's weights as one sentence."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (OSError, RuntimeError, ValueError)):
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"The weights of {self.what} are not here and cannot be fetched ({reason}); "
                "write the prompt yourself and choose describe none, or give a function of your own."
            ) from error
