"""Imports point one way, libraries stay where the architecture puts them, and what users read is documented."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
PACKAGES = ("vision", "restoration", "recon3d", "reward_vlm")
FILES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
HOMES = {
    "diffusers": ("vision/diffusion", "vision/edit", "restoration/pasd", "restoration/one_step"),
    "accelerate": ("vision/training.py", "vision/training_run.py", "vision/weights.py"),
    "open_clip": ("vision/metrics.py", "restoration/pasd/prompts.py"),
    "trl": ("reward_vlm",),
    "peft": ("reward_vlm",),
    "nibabel": ("vision/edit/scans.py",),
    "pydicom": ("vision/edit/scans.py",),
    "ray": ("vision/scale/engines.py",),
    "starlette": ("reward_vlm/serve.py",),
    "uvicorn": ("reward_vlm/serve.py",),
    "spandrel": ("restoration/networks.py",),
    "trimesh": ("recon3d",),
    "tyro": ("vision/config.py",),
}


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Everything in a file, the module first; parsed once for all tests."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def imported(path: Path, members: bool = False) -> set[str]:
    """Modules that a file imports; with `members` also what it takes out of them, which may be modules as well."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if members)
    return names


def place(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def test_imports_point_towards_vision():
    wrong = []
    for path in FILES:
        package = path.relative_to(PROJECT).parts[0]
        for name in imported(path):
            top = name.split(".")[0]
            below = package == "vision" and "edit" not in path.parts and name.startswith("vision.edit")
            if below or (top in ("scripts", "tests", *PACKAGES) and top not in (package, "vision")):
                wrong.append(f"{place(path)} imports {name}")
    assert wrong == []


def test_libraries_stay_in_their_places():
    pairs = [(place(path), name, HOMES.get(name.split(".")[0])) for path in FILES for name in imported(path)]
    assert [f"{file} imports {name}" for file, name, homes in pairs if homes and not file.startswith(homes)] == []


def test_every_field_has_its_sentence():
    """Under it, in all dataclasses that others may use."""
    bare = []
    for path in FILES:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and is_dataclass(node):
                for field, below in zip(node.body, [*node.body[1:], None], strict=True):
                    if isinstance(field, ast.AnnAssign) and not is_text(below) and not is_private(field):
                        bare.append(f"{place(path)}: {node.name}.{ast.unparse(field.target)}")
    assert bare == []


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def is_private(field: ast.AnnAssign) -> bool:
    return ast.unparse(field.target).startswith("_") or "ClassVar" in ast.unparse(field.annotation)


DIMENSION = r"(?:\.\.\.|[\w']+(?:\s?[*/+-]\s?[\w']+)*)"
SHAPE = re.compile(
    rf"\((?:{DIMENSION},\s*)+(?:{DIMENSION})?\)|\bscalar\b|0-d|any shape|same shape|its shape|shape and type"
)
"""(batch, 3, height, width), (views,), scalar, ..."""


def test_public_tensors_have_shapes():
    """In the docstring of the function or of its class, or in the legend at the top of the file."""
    bare = []
    for path in FILES:
        module = nodes(path)[0]
        legend = ast.get_docstring(module) or ""
        bare += [
            f"{place(path)}: {function.name}"
            for function, owner in public_functions(module)
            if takes_or_gives_tensors(function)
            and not any(map(SHAPE.search, (legend, owner, ast.get_docstring(function) or "")))
        ]
    assert bare == []


def public_functions(scope: ast.Module | ast.ClassDef) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Functions and methods that others may call, with the docstrings of their classes."""
    for node in scope.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and (node.name == "__call__" or not node.name.startswith("_")):
            yield node, "" if isinstance(scope, ast.Module) else ast.get_docstring(scope) or ""


def takes_or_gives_tensors(function: ast.FunctionDef) -> bool:
    """Tensors by names (state dicts), and those of functions that are given, do not count."""
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    hints = [ast.unparse(hint) for hint in (*(each.annotation for each in arguments), function.returns) if hint]
    inner = r"(?:dict|Mapping|Callable)\[(?:[^\[\]]|\[(?:[^\[\]]|\[[^\[\]]*\])*\])*\]"
    return any(re.search(r"\bTensor\b", re.sub(inner, "", hint)) for hint in hints)


def test_no_file_takes_from_typing_what_the_oldest_python_lacks():
    newer = {"Self", "Never", "LiteralString", "Required", "NotRequired", "Unpack", "TypeVarTuple", "assert_never"}
    taken = {place(path): imported(path, members=True) & {f"typing.{name}" for name in newer} for path in FILES}
    assert {name: found for name, found in taken.items() if found} == {}


def test_every_module_says_what_it_is():
    assert [place(path) for path in FILES if not ast.get_docstring(nodes(path)[0])] == []


def test_no_two_files_import_each_other():
    """Type-only imports count."""
    names = {".".join(path.relative_to(PROJECT).with_suffix("").parts): path for path in FILES}
    graph = {
        name: imported(path, members=True) & names.keys() - {name}
        for name, path in names.items()
        if path.stem != "__init__"
    }
    graph = {name: needs & graph.keys() for name, needs in graph.items()}
    reach = {name: reached(graph, name) for name in graph}
    circles = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    assert circles - {frozenset()} == set()


def reached(graph: dict[str, set[str]], start: str) -> set[str]:
    """Everything that a file imports, directly or not."""
    found, ahead = set(), [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found
