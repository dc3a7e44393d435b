"""Model cards: the README.md of a folder of weights, with the metadata in front that the model hub reads."""

from __future__ import annotations

from pathlib import Path

from vision.config import version
from vision.files import atomic_path

LIBRARY = "burnish"
TASKS = {
    "image-to-image": "pictures in, pictures out",
    "image-to-3d": "pictures in, a mesh out",
    "image-text-to-text": "a picture and a text in, a text out",
}
"""The hub's names of what our systems do, and what they mean."""
CARD = """# {title}

Weights of `{cls}`: {does}. Saved by burnish {version}.

```python
from burnish import {cls}

loaded = {cls}.from_pretrained("{name}")
```

The configuration that they were made with lies beside them. What they were trained on, how well they do and where they
fail is not written down yet; {licence}
"""


def write_card(folder: str | Path, name: str, cls: str, task: str, license: str | None = None) -> Path:
    """The model card of a folder of weights; one that is there stays as it is.

    Args:
        folder: of the weights.
        name: of the repository, as `org/name`.
        cls: the class that loads them.
        task: one of `TASKS`.
        license: the hub's short name of the weights' licence, such as apache-2.0; None leaves it open.

    Raises:
        ValueError: the card cannot be written, or the one that is there has no metadata that the hub can read.
    """
    path = Path(folder) / "README.md"
    if path.exists():
        read_card(path)
        return path
    from huggingface_hub import ModelCardData

    data = ModelCardData(library_name=LIBRARY, pipeline_tag=task, license=license, tags=[LIBRARY, cls])
    licence = "say so here." if license else "say so here, and under which licence they are."
    text = CARD.format(
        title=name.rpartition("/")[2], cls=cls, does=TASKS[task], version=version(), name=name, licence=licence
    )
    with atomic_path(path) as part:
        part.write_text(f"---\n{data.to_yaml()}\n---\n\n{text}", encoding="utf-8")
    return path


def read_card(path: str | Path) -> dict[str, object]:
    """The metadata of a model card; empty when it has none.

    Raises:
        ValueError: what stands in front cannot be read as metadata.
    """
    import yaml
    from huggingface_hub import ModelCard

    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"The metadata in front of {path} cannot be read: {error}") from error
