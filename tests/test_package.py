"""What is installed from a wheel is all of the project, and restores as the checkout does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import PIL.Image
import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = {"vision": "vision", "restoration": "restoration", "recon3d": "recon3d", "reward_vlm": "reward_vlm"}
PACKAGES |= {"scripts": "burnish"}
BUILD = """
import os, sys, tarfile
from pathlib import Path
from setuptools import build_meta
out = Path(sys.argv[1])
with tarfile.open(out / build_meta.build_sdist(out)) as source:
    source.extractall(filter="data")
os.chdir(next(Path().glob("burnish-*")))
build_meta.build_wheel(out)
"""


def files() -> set[str]:
    """Files of the packages, under their installed names."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("the checkout's own list of files is needed")
    names = (name.partition("/") for name in listed.stdout.split("\0") if (PROJECT / name).is_file())
    return {f"{PACKAGES[top]}/{rest}" for top, _, rest in names if top in PACKAGES}


def checkout(folder: Path) -> Path:
    """A copy of what is under version control, without tests; a build leaves nothing in the project."""
    names = [top for top in PACKAGES if (PROJECT / top).is_dir()]
    listed = subprocess.run(["git", "ls-files", "-z", *names], cwd=PROJECT, capture_output=True, text=True).stdout
    for name in [*filter(None, listed.split("\0")), "pyproject.toml", "setup.py", "README.md", "LICENSE"]:
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((PROJECT / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the source distribution, and the wheel that is built of it."""
    out, copy = tmp_path_factory.mktemp("dist"), checkout(tmp_path_factory.mktemp("copy"))
    done = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_a_wheel_links_the_papers_that_the_citations_name(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        linked = re.findall(r"^Project-URL: [^,]+, https://arxiv\.org/abs/(.+)$", file.read(name).decode(), re.M)
    cited = re.findall(r"arXiv ([\d.]+)", (PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert len(linked) == 6 and set(linked) <= set(cited)


def test_wheel_and_sdist_hold_every_file_of_the_packages_and_nothing_else(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == files() and len(names) > 200
    assert {f"{name}/py.typed" for name in PACKAGES.values()} <= names
    with tarfile.open(next(built.glob("*.tar.gz"))) as source:
        inside = {name.partition("/")[2] for name in source.getnames()}
    own = {top: f"{top}/" for top in PACKAGES}
    assert {re.sub("^burnish/", own["scripts"], name) for name in names} <= inside
    assert {"pyproject.toml", "setup.py", "LICENSE", "README.md"} <= inside


def test_the_command_of_a_wheel_restores_the_bytes_of_the_checkout(built, tmp_path):
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-warn-script-location"]
    pip = [sys.executable, "-m", "pip", "--python", str(python), *install, str(next(built.glob("*.whl")))]
    subprocess.run(pip, check=True, cwd=tmp_path)
    paths = [path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))]
    (site / "libraries.pth").write_text(
        "\n".join(paths)
    )  # its .pth files are not read: an editable install is not seen
    with PIL.Image.open(PROJECT / "examples" / "cat.jpg") as cat:
        cat.crop((40, 40, 88, 80)).save(tmp_path / "cat.png")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = ["restore", "cat.png", "--device", "cpu", "--out"]
    burnish = [str(tmp_path / "venv" / "bin" / "burnish"), *words, "wheel"]
    subprocess.run(burnish, cwd=tmp_path, env=environment, check=True, capture_output=True)
    where = "import burnish, vision, restoration; print(burnish.__file__, vision.__file__, restoration.__file__)"
    told = subprocess.run([str(python), "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert all(Path(path).is_relative_to(site) for path in told.stdout.split()) and len(told.stdout.split()) == 3
    script = [sys.executable, str(PROJECT / "scripts" / "restore.py"), *words[1:], "checkout"]
    subprocess.run(script, cwd=tmp_path, env={**environment, "PYTHONPATH": str(PROJECT)}, check=True)
    made = (tmp_path / "wheel" / "cat.png").read_bytes()
    assert made == (tmp_path / "checkout" / "cat.png").read_bytes()
    assert PIL.Image.open(tmp_path / "wheel" / "cat.png").size == (192, 160)


def test_every_extra_says_what_it_is_for_and_the_version_has_its_changes():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (PROJECT / "docs" / "install.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(\w+)` \|", page, re.M)
    assert sorted(told) == sorted(project["optional-dependencies"])
    changes = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {project['version']}\n" in changes
