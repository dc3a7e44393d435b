"""Fine-tuning on a domain and training of a classifier, on tiny networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.vision.edit.conftest import picture
from vision.edit import Confidence, PIEEditor
from vision.edit.train import PIETraining, pictures, train
from vision.edit.train_confidence import ConfidenceTraining
from vision.edit.train_confidence import train as train_confidence


@pytest.fixture
def folders(editor, tmp_path):
    editor.save_pretrained(tmp_path / "base")
    (tmp_path / "data").mkdir()
    for i in range(3):
        picture(i, 40, 48).save(tmp_path / "data" / f"{i}.png")
    (tmp_path / "data" / "0.txt").write_text("a picture,healthy\n")
    return tmp_path


def test_only_the_denoiser_learns(folders):
    options = PIETraining(
        base=folders / "base", data=folders / "data", kind="folder", prompt="a picture,ill", prior=folders / "prior",
        prior_prompt="a picture", prior_images=1, folder=folders / "run", steps=2, batch_size=2, accumulate=1,
        warmup=0, resolution=32, mixed_precision="no", workers=0,
    )  # fmt: skip
    assert [prompt for _, prompt in pictures(options)] == ["a picture,healthy", "a picture,ill", "a picture,ill"]
    before, after = PIEEditor.from_pretrained(folders / "base"), PIEEditor.from_pretrained(train(options))
    assert len(list((folders / "prior").iterdir())) == 1
    for part in ("vae", "unet"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (part == "vae")
    with pytest.raises(ValueError, match="has no prompt"):
        pictures(PIETraining(data=folders / "data", kind="folder"))


def test_a_classifier_learns_bright_from_dark(tmp_path):
    from vision.images import save_image

    for name, level in (("positive", 0.8), ("negative", 0.2)):
        for i in range(6):
            noise = 0.1 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i))
            save_image((level + noise).clamp(0, 1), tmp_path / name / f"{i}.png")
    options = ConfidenceTraining(
        positive=tmp_path / "positive", negative=tmp_path / "negative", architecture="small", size=32,
        folder=tmp_path / "run", steps=20, batch_size=4, learning_rate=5e-3, epochs=2,
    )  # fmt: skip
    lines: list[str] = []
    classifier = Confidence.from_pretrained(train_confidence(options, log=lines.append))
    assert "AUC 1.0000" in lines[-1] or "AUC 1.0000" in lines[-2]
    bright, dark = (classifier(torch.full((1, 3, 32, 32), level)) for level in (0.8, 0.2))
    assert bright > dark
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        replace(options, epochs=0)
