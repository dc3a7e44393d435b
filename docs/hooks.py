"""What the site holds beside the pages of this folder, and where links between them lead.

Model cards, the guide for contributors and the changelog become pages; every public module gets a page of reference
from its docstrings. Links in the pages name files of the project, so that they work in an editor and on a code host
too; here they are turned towards the page that shows the file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("vision", "restoration", "recon3d", "reward_vlm")
TEXTS = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def modules() -> list[Path]:
    """Python files of the packages, relative to the project, that are no markers and not private."""
    files = (path.relative_to(PROJECT) for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py")))
    return [path for path in files if not path.name.startswith("_")]


def pages() -> dict[str, str]:
    """Pages made from files outside this folder: path in the project -> address of the page."""
    cards = sorted(PROJECT.glob("*/pretrained/**/README.md"))
    made = dict(TEXTS)
    for card in cards:
        inside = card.relative_to(PROJECT).parent
        made[(inside / "README.md").as_posix()] = f"cards/{'-'.join(inside.parts[2:])}.md"
    for path in modules():
        made[path.as_posix()] = f"reference/{path.with_suffix('.md').as_posix()}"
    for path in [*PACKAGES, *sorted({path.parent.as_posix() for path in modules()})]:
        made.setdefault(path, "reference/index.md")
    return made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made from other files."""
    listed = ["# Reference", "", "Every public module, from its docstrings.", ""]
    for source, address in pages().items():
        if source.endswith(".py"):
            name = source.removesuffix(".py").replace("/", ".")
            listed.append(f"- [`{name}`]({posixpath.relpath(address, 'reference')})")
            content = f"# {name}\n\n::: {name}\n"
        elif source.endswith(".md"):
            content = turned((PROJECT / source).read_text(encoding="utf-8"), PROJECT / source, address)
        else:
            continue
        files.append(File.generated(config, address, content=content))
    files.append(File.generated(config, "reference/index.md", content="\n".join(listed) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page of this folder."""
    source = page.file.abs_src_path
    return markdown if source is None else turned(markdown, Path(source), page.file.src_uri)


def turned(markdown: str, source: Path, address: str) -> str:
    """Text of `source`, shown at `address`, with links to files of the project led to the pages that show them.

    Raises:
        FileNotFoundError: a link names a file that the project has not.
    """
    made, docs = pages(), PROJECT / "docs"

    def lead(match: re.Match[str]) -> str:
        target, place = match[1], match[2] or ""
        if "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        path = (source.parent / target).resolve()
        if not path.exists():
            raise FileNotFoundError(f"{source.relative_to(PROJECT)} links to {target}, which does not exist.")
        if path == PROJECT / "README.md":
            where = "index.md"
        elif path.is_relative_to(docs):
            where = path.relative_to(docs).as_posix()
        else:
            where = made.get(path.relative_to(PROJECT).as_posix(), "reference/index.md")
        return posixpath.relpath(where, posixpath.dirname(address) or ".") + place

    return _LINK.sub(lead, markdown)
