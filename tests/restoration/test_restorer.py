"""Restorers by name: what a name stands for, that the facts are true, and that the command takes them all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from restoration.iter import ITEROptions, ITERRestorer
from restoration.job import RestoreOptions, restore
from restoration.pasd import PASDOptions, PASDRestorer
from restoration.plain import PlainOptions, PlainRestorer
from restoration.restorer import find_system
from scripts.restore import main, parse
from vision.images import is_grey, load_image, to_pil, to_tensor
from vision.resize import imresize

PASD = {"steps": 2, "process_size": 16, "guidance_scale": 1.0}


@pytest.fixture
def picture(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 256, (14, 18, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def command(picture: Path, out: Path, *words: str) -> int:
    return main(parse([str(picture), "--out", str(out), "--device", "cpu", *words]))


@pytest.mark.parametrize(
    ("restorer", "choices"),
    [
        (lambda: ITERRestorer.from_pretrained("builtin:tiny-mini"), [ITEROptions(fidelity=f) for f in (0.0, 1.0)]),
        (lambda: PASDRestorer.from_pretrained("builtin:tiny"), [PASDOptions(scale=2.0, **PASD)]),
        (PlainRestorer, [PlainOptions(), PlainOptions(1.5)]),
    ],
    ids=["iter", "pasd", "plain"],
)
def test_facts_are_true(restorer, choices):
    restorer = restorer()
    image = torch.rand(1, 3, 14, 18, generator=torch.Generator().manual_seed(0))
    for options in choices:
        facts = restorer.facts(options)
        results, seen = [], []
        for seed in (0, 1):
            changed = {"seed": seed} if facts.seed else {}
            chosen = type(options)(**{**vars(options), **changed})
            results.append(torch.cat(list(restorer.bands(image, chosen, observers=[seen.append])), dim=2))
        assert facts.seed is not torch.equal(*results) and facts.steps is bool(seen)
        assert tuple(results[0].shape[-2:]) == restorer.output_size(14, 18, options)
        assert tuple(results[0].shape[-2:]) == (round(14 * facts.scale), round(18 * facts.scale))
        assert facts.copies is torch.equal(results[0], image)
        grey = torch.cat(list(restorer.bands(image[:, :1].expand(-1, 3, -1, -1), options)), dim=2)
        assert facts.keeps_grey is bool(is_grey(grey).all())
        assert isinstance(options, restorer.Options)


def test_none_copies_the_file_where_the_format_stays(tmp_path, picture):
    deep = np.random.default_rng(1).integers(0, 65536, (9, 7), dtype=np.uint16)
    PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
    photo = PIL.Image.open(picture)
    photo.save(tmp_path / "photo.jpg", quality=60)
    photo.save(tmp_path / "misnamed.png", format="JPEG")
    names = ("a.png", "deep.png", "photo.jpg", "misnamed.png")
    assert command(tmp_path, tmp_path / "out", "--system", "none") == 0
    for name in names[:2]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()
    for name, result in ((names[2], "photo_jpg.png"), (names[3], names[3])):
        made = PIL.Image.open(tmp_path / "out" / result)
        assert made.format == "PNG" and np.array_equal(made, load_image(tmp_path / name).rgb)
    assert command(tmp_path / "photo.jpg", tmp_path / "jpg", "--system", "none", "--format", "jpg") == 0
    assert (tmp_path / "jpg" / "photo.jpg").read_bytes() == (tmp_path / "photo.jpg").read_bytes()


@pytest.mark.parametrize(("name", "scale"), [("none", "2.5"), ("bicubic", "2.5"), ("bicubic", None)])
def test_plain_enlargement_reaches_the_size(picture, tmp_path, name, scale):
    assert command(picture, tmp_path / "out", "--system", name, *([] if scale is None else ["--scale", scale])) == 0
    size = (round(14 * float(scale or 4)), round(18 * float(scale or 4)))
    expected = to_pil(imresize(to_tensor(picture), size=size).clamp(0, 1))
    assert np.array_equal(PIL.Image.open(tmp_path / "out" / "a.png"), expected)


def test_a_name_chooses_weights_and_their_dial(picture, tmp_path):
    assert command(picture, tmp_path / "named", "--system", "iter:clean@0.5") == 0
    assert command(picture, tmp_path / "told", "--variant", "clean", "--fidelity", "0.5") == 0
    assert (tmp_path / "named" / "a.png").read_bytes() == (tmp_path / "told" / "a.png").read_bytes()
    assert command(picture, tmp_path / "blended", "--system", "iter:clean@1*0.25") == 0
    assert command(picture, tmp_path / "dials", "--variant", "clean", "--fidelity", "1", "--blend", "0.25") == 0
    assert (tmp_path / "blended" / "a.png").read_bytes() == (tmp_path / "dials" / "a.png").read_bytes()
    assert command(picture, tmp_path / "preset", "--system", "pasd:fast", "--steps", "1") == 0
    with pytest.raises(ValueError, match=r"iter:clean@0.5 sets fidelity to 0.5; leave fidelity 1.0 out"):
        command(picture, tmp_path / "both", "--system", "iter:clean@0.5", "--fidelity", "1")
    with pytest.raises(ValueError, match="sets variant to clean; leave variant photo out"):
        command(picture, tmp_path / "both", "--system", "iter:clean", "--variant", "photo")
    with pytest.raises(ValueError, match=r"bicubic has no other weights; leave the source builtin:tiny out"):
        command(picture, tmp_path / "both", "--system", "bicubic", "--source", "builtin:tiny")


def test_what_a_restorer_cannot_do_is_one_sentence(picture, tmp_path):
    options = RestoreOptions((picture,), tmp_path / "out", PlainOptions(), system="none", previews=True)
    assert "previews show steps, and this result of none is made in one." in restore(options).problems[0]
    options = RestoreOptions((picture,), tmp_path / "out", PlainOptions(), system="none", best_of=2)
    outcome = restore(options, load_judge=lambda source, device: pytest.fail("no judge is needed"))
    assert "this result of none depends on none." in outcome.problems[0]


def test_a_file_without_such_a_class_is_one_sentence(picture, tmp_path):
    (tmp_path / "own.py").write_text("class Mine:\n    pass\n")
    (tmp_path / "broken.py").write_text("import there_is_no_such_module\n")
    with pytest.raises(ValueError, match="needs a class Mine with the dataclass Options inside"):
        find_system(f"{tmp_path}/own.py:Mine").make()
    with pytest.raises(ValueError, match="cannot be imported: No module named 'there_is_no_such_module'"):
        find_system(f"{tmp_path}/broken.py:Mine").make()
