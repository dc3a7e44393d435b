"""Training stages, conversion of checkpoints, benchmark and evaluation, at tiny sizes."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.data import default_collate

from recon3d.gtr import reconstructor
from recon3d.gtr.convert import convert
from recon3d.gtr.options import PUBLISHED, TINY
from recon3d.gtr.reconstructor import GTRReconstructor
from recon3d.gtr.train import GTRTraining, Model, RenderedObjects, Task, mesh_loss, train
from recon3d.mesh_files import save_mesh
from recon3d.vase import vase
from scripts.convert import GTRFiles
from scripts.convert import main as convert_file
from vision.weights import save_weights

QUICK = {"preset": "tiny", "steps": 2, "given_views": 2, "compared_views": 1, "rays": 64, "samples": 8, "grid_size": 12}


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_both_stages_train_and_the_second_starts_from_the_first(tmp_path):
    lines = []
    options = GTRTraining(folder=tmp_path / "volume", lpips=0.5, log_every=1, **QUICK)
    weights = train(options, log=lines.append)
    assert any("without the LPIPS" in line for line in lines) or any("lpips" in line for line in lines)
    trained = GTRReconstructor.from_pretrained(weights)
    fresh = GTRReconstructor.with_random_weights(TINY)
    assert not torch.equal(trained.generator.planes, fresh.generator.planes)
    assert not torch.equal(trained.field.mlp_color.layers[0].weight, fresh.field.mlp_color.layers[0].weight)

    # A lower density of the surface, so that untrained densities have one.
    low = replace(trained.config, level=0.7)
    GTRReconstructor(low, trained.field, trained.generator).save_pretrained(tmp_path / "start")
    mesh = replace(options, folder=tmp_path / "mesh", stage="mesh", start=str(tmp_path / "start"), lpips=0.0)
    train(mesh)
    logged = rows(tmp_path / "mesh")[-1]
    assert {"rgb", "mask", "depth", "ray_opacity"} <= set(logged)


def test_training_is_resumed_exactly(tmp_path):
    options = GTRTraining(folder=tmp_path / "a", lpips=0.0, save_every=1, **QUICK)
    whole = GTRReconstructor.from_pretrained(train(options))
    assert train(replace(options, folder=tmp_path / "b"), max_seconds=0.0) is None
    again = GTRReconstructor.from_pretrained(train(replace(options, folder=tmp_path / "b")))
    for name, value in whole.generator.state_dict().items():
        assert torch.equal(value, again.generator.state_dict()[name]), name


def test_an_object_without_a_surface_gives_every_parameter_a_gradient():
    """Several processes wait for each other's gradients of every parameter."""
    start = GTRReconstructor.with_random_weights(TINY)
    options, empty = GTRTraining(stage="mesh", start="weights", **QUICK), replace(start.config, level=1e9)
    batch = default_collate([RenderedObjects([], start.config.image_size, 3, 0)[0]])
    model = Model(start.generator, start.field)
    loss, logs = model(mesh_loss, batch, torch.Generator().manual_seed(0), Task(empty, options, None))
    assert "rgb" not in logs
    loss.backward()
    assert [name for name, value in model.named_parameters() if value.grad is None] == []


def test_samples_depend_on_seed_and_number_alone(tmp_path):
    save_mesh(vase(12, 16, 16), tmp_path / "a.glb")
    data = RenderedObjects([tmp_path / "a.glb"], 16, 3, seed=1)
    one, same, other = data[5], data[5], data[6]
    assert torch.equal(one["images"], same["images"]) and not torch.equal(one["c2w"], other["c2w"])
    assert one["depths"].shape == (3, 1, 16, 16) and one["normals"].shape == (3, 3, 16, 16)


def test_bad_training_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="starts from the weights of the volume stage"):
        GTRTraining(stage="mesh")
    with pytest.raises(FileNotFoundError, match="no folder"):
        train(GTRTraining(folder=tmp_path, meshes=tmp_path / "none", **QUICK))


def checkpoint(config=TINY):
    made = GTRReconstructor.with_random_weights(config)
    parts = {"field": made.field.state_dict(), "generator": made.generator.state_dict()}
    return made, {"pipeline": parts, "scalers": {"scale": 2048.0}}


def test_published_checkpoint_is_converted(tmp_path):
    # The size of a head cannot be read off the weights; the published one is 64.
    config = replace(TINY, generator=replace(TINY.generator, model_channels=128, num_heads=2, num_head_channels=64))
    made, content = checkpoint(config)
    torch.save(content, tmp_path / "ckpt.pth")
    folder = convert_file(GTRFiles(tmp_path / "ckpt.pth", tmp_path / "out"))
    again = GTRReconstructor.from_pretrained(folder)
    assert again.config.generator == config.generator
    for name, value in made.generator.state_dict().items():
        assert torch.equal(value, again.generator.state_dict()[name])
    with pytest.raises(ValueError, match="holds files already"):
        convert_file(GTRFiles(tmp_path / "ckpt.pth", tmp_path / "out"))


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    torch.save(checkpoint()[1], tmp_path / "ckpt.pth")

    def fail(module, folder, **more):
        if folder.name == "generator":
            raise ValueError(f"Cannot write {folder}: No space left on device.")
        save_weights(module, folder, **more)

    monkeypatch.setattr(reconstructor, "save_weights", fail)
    with pytest.raises(ValueError, match="No space left"):
        convert_file(GTRFiles(tmp_path / "ckpt.pth", tmp_path / "out"))
    with pytest.raises(ValueError, match="No space left"):
        GTRReconstructor.with_random_weights(TINY).save_pretrained(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir() if path.name != "saved"] == ["ckpt.pth"]
    assert not (tmp_path / "saved" / "model_index.json").exists()  # which says that a folder is whole


def test_sizes_of_the_published_checkpoint_are_recognised():
    from recon3d.gtr.convert import read_config

    with torch.device("meta"):
        from recon3d.gtr.network import Generator
        from recon3d.gtr.options import new_field

        config = read_config(new_field(PUBLISHED).state_dict(), Generator(PUBLISHED.generator).state_dict())
    assert config == PUBLISHED


@pytest.mark.parametrize("damage", ["pipeline", "tensor", "shape"])
def test_damaged_checkpoints_are_refused(damage):
    _, content = checkpoint()
    if damage == "pipeline":
        content = {"state_dict": {}}
    elif damage == "tensor":
        del content["pipeline"]["generator"]["norm2.weight"]
    else:
        content["pipeline"]["generator"]["norm2.weight"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"pipeline|does not fit"):
        convert(content)
