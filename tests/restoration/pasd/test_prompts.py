"""Prompts from pictures: composition, recognisers of one's own, and absent weights."""

from __future__ import annotations

import PIL.Image
import pytest
import torch

from restoration.pasd import PASDOptions, PASDRestorer, prompts
from restoration.pasd.prompts import Describer, classifier, full_prompt, prompt_with_classes, prompt_with_objects

PICTURE = PIL.Image.new("RGB", (32, 32), (10, 200, 30))


def test_an_improbable_class_leaves_the_prompt():
    unsure = [("cat", 0.09), ("dog", 0.05)]
    assert prompt_with_classes("a photo", unsure) == "a photo, "
    assert prompt_with_classes("a photo", unsure, as_published=True) == ""
    assert prompt_with_classes("", [("dog", 0.2), ("cat", 0.7)]) == "cat, "
    assert prompt_with_classes("", []) == ""


def test_objects_are_counted_as_they_appear():
    assert prompt_with_objects("", ["dog", "cat", "dog"]) == "2 dog, 1 cat, "
    assert prompt_with_objects("park", []) == "park, "


def test_colourization_speaks_of_colour():
    assert full_prompt("a black and white photo", "8k", colorize=True) == "a color photo"
    assert full_prompt("a photo, ", "8k") == "a photo, 8k"


def test_any_function_can_describe():
    restorer = PASDRestorer.from_pretrained("builtin:tiny")
    seen = []

    def caption(picture):
        seen.append(picture.size)
        return "a noisy street "

    restorer.describer = Describer("caption", caption)
    options = PASDOptions(steps=1, process_size=32, guidance_scale=1.0, added_prompt="8k", prompt="at night")
    given = []
    encode = restorer.text
    restorer.text = lambda wanted: given.extend(wanted) or encode(wanted)
    restorer.text.encoders = encode.encoders
    restorer(torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(0)), options)
    assert seen == [(40, 24)] * 2
    assert given == ["a clean street  at night8k"] * 2


def test_a_classifier_names_its_best_classes():
    class Greenest(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.tensor(50.0))

        def forward(self, x):
            return self.gain * x.mean(dim=(2, 3))

    def transform(picture):
        return (
            torch.tensor(
                list(picture.get_flattened_data() if hasattr(picture, "get_flattened_data") else picture.getdata())
            ).T.reshape(3, *picture.size)
            / 255
        )

    found = classifier(Greenest(), transform, ["red", "green", "blue"])(PICTURE)
    assert found[0][0] == "green" and found[0][1] > 0.9
    assert Describer("classes", lambda picture: found)(PICTURE, "a wall") == "a wall, green, "


def test_absent_libraries_and_weights_are_sentences(monkeypatch):
    with pytest.raises(ValueError, match=r"describe must be none, caption, classes, objects, got 'mood'"):
        Describer("mood")
    with pytest.raises(ValueError, match=r"describe by caption or classes"):
        prompts.yolo_objects()

    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("open_clip.create_model_and_transforms", offline)
    with pytest.raises(ValueError, match=r"captioner CoCa of open_clip are not here .*choose describe none"):
        Describer("caption")(PICTURE)
