"""What the site holds beside the pages of this folder, and where links between them lead.

Model cards, the guide for contributors, the changelog and the notebooks become pages; every public module gets a page
of reference from its docstrings. Links in the pages name files of the project, so that they work in an editor and on a
code host too; here they are turned towards the page that shows the file.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from itertools import pairwise
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


def defined(path: Path) -> list[str]:
    """Public names that a module defines at its top: functions, classes, and constants with docstrings of their own."""
    body = ast.parse((PROJECT / path).read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    for node, told in pairwise(body):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(told, ast.Expr):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            names += [target.id] if isinstance(target, ast.Name) else []
    return [name for name in names if not name.startswith("_")]


def burnish_names() -> list[str]:
    """A table of what `import burnish` gives, each name leading to where it is defined."""
    table = next(node for node in ast.walk(ast.parse((PROJECT / "scripts/__init__.py").read_text())) if _is_dict(node))
    where = {(path, name): path for path in modules() for name in defined(path)}
    rows = ["`from burnish import ...` gives:", "", "| from | names |", "|---|---|"]
    for package, names in ast.literal_eval(table).items():
        inside = package.replace(".", "/")
        found = []
        for name in names.split():
            path = next(p for p, n in where if n == name and p.as_posix().startswith((f"{inside}/", f"{inside}.py")))
            found.append(f"[`{name}`]({path.with_suffix('.md').as_posix()}#{dotted(path)}.{name})")
        rows.append(f"| `{package}` | {', '.join(found)} |")
    return rows


def _is_dict(node: ast.AST) -> bool:
    return isinstance(node, ast.Dict) and bool(node.keys)


def dotted(path: Path) -> str:
    """Name of a module by its path."""
    return path.with_suffix("").as_posix().replace("/", ".")


def pages() -> dict[str, str]:
    """Pages made from files outside this folder: path in the project -> address of the page."""
    cards = sorted(PROJECT.glob("*/pretrained/**/README.md"))
    made = dict(TEXTS)
    for card in cards:
        inside = card.relative_to(PROJECT).parent
        made[(inside / "README.md").as_posix()] = f"cards/{'-'.join(inside.parts[2:])}.md"
    for notebook in sorted((PROJECT / "docs" / "notebooks").glob("*.ipynb")):
        made[f"docs/notebooks/{notebook.name}"] = f"notebooks/{notebook.stem}.md"
    for path in modules():
        made[path.as_posix()] = f"reference/{path.with_suffix('.md').as_posix()}"
    for path in [*PACKAGES, *sorted({path.parent.as_posix() for path in modules()})]:
        made.setdefault(path, "reference/index.md")
    return made


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made from other files."""
    listed = [
        "# Reference",
        "",
        *burnish_names(),
        "",
        "## Modules",
        "",
        "Every public module, from its docstrings.",
        "",
    ]
    for source, address in pages().items():
        if source.endswith(".py"):
            name = dotted(Path(source))
            listed.append(f"- [`{name}`]({posixpath.relpath(address, 'reference')})")
            content = f"# {name}\n\n::: {name}\n"
        elif source.endswith(".ipynb"):
            content = turned(notebook(PROJECT / source), PROJECT / source, address)
        elif source.endswith(".md"):
            content = turned((PROJECT / source).read_text(encoding="utf-8"), PROJECT / source, address)
        else:
            continue
        files.append(File.generated(config, address, content=content))
    files.append(File.generated(config, "reference/index.md", content="\n".join(listed) + "\n"))
    return files


def notebook(path: Path) -> str:
    """The cells of a notebook as Markdown. They hold no output; tests run them."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    parts = [
        text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
        for cell, text in zip(cells, texts, strict=True)
    ]
    file = f"The notebook is `docs/notebooks/{path.name}`."
    return "\n\n".join([parts[0], file, *parts[1:]]) + "\n"


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
        elif path.is_relative_to(docs) and path.suffix != ".ipynb":
            where = path.relative_to(docs).as_posix()
        else:
            where = made.get(path.relative_to(PROJECT).as_posix(), "reference/index.md")
        return posixpath.relpath(where, posixpath.dirname(address) or ".") + place

    return _LINK.sub(lead, markdown)
