"""Frozen dataclasses as JSON and as command lines.

`Config` (what weights were made with) and `Options` (what one call may change) are frozen dataclasses that
check themselves in `__post_init__`. Here they become plain JSON and come back equal, tuples, paths and nested
dataclasses included, and `cli` turns one into a command line.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import json
import math
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, Union

import tyro

from vision.files import atomic_path, read_text

T = TypeVar("T")
Positional = tyro.conf.Positional
"""Marks a field of options that the command line takes without its name: `inputs: Positional[tuple[Path, ...]]`."""
Dtype = Literal["float32", "float16", "bfloat16"]
"""An option: the numbers that networks compute with."""
UNNAMED = tyro.conf.arg(name="")
"""Marks a field of further options: `options: Annotated[ITEROptions, UNNAMED]` gives --seed, not --options.seed."""

EMPTY = "a path is empty; is a variable of the shell unset?"
"""Told where a command line names a path by an empty word."""
_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _paths(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
    """Options that are paths."""
    if info.type is not Path:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_path,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _path(words: Sequence[str]) -> Path:
    """The path that one word names. An empty one, which `"$UNSET"` leaves, would be the current folder."""
    if not words[0]:
        raise ValueError(EMPTY)
    return Path(words[0])


PathOrURL = Annotated[
    Path | str,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|URL",
        instance_from_str=lambda words: words[0] if is_url(words[0]) else _path(words),
        is_instance=lambda value: isinstance(value, (Path, str)),
        str_from_instance=lambda value: [str(value)],
    ),
]
"""A field of options that takes a path, or an address such as s3://bucket/folder, which stays a text."""


def is_url(name: str | Path) -> bool:
    """Whether a name is an address (`s3://bucket/folder`) and no path."""
    return isinstance(name, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None


def version() -> str:
    """The version of this project, as installed; "unknown" when it runs from a bare checkout."""
    try:
        return metadata.version("burnish")
    except metadata.PackageNotFoundError:
        return "unknown"


def to_dict(config: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values: nested dataclasses become dicts, tuples lists, paths
    strings."""
    return {field.name: _to_json(getattr(config, field.name), field.name) for field in _fields(type(config))}


def from_dict(cls: type[T], data: dict[str, Any]) -> T:
    """The dataclass `cls` whose fields `data` holds, as `to_dict` writes them.

    Raises:
        ValueError: a key is unknown or missing, or a value has the wrong type; the sentence names it.
    """
    return _from_dict(cls, data, cls.__name__)


def save_config(config: Any, path: str | Path) -> None:
    """Write `to_dict(config)` with the names of its class and of this version as JSON."""
    content = {"_class_name": type(config).__name__, "_version": version(), **to_dict(config)}
    with atomic_path(path) as part:
        part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_config(cls: type[T], path: str | Path) -> T:
    """Read what `save_config` wrote.

    Raises:
        FileNotFoundError: there is no such file; folders beside it that hold one are named.
        ValueError: it is no JSON object, belongs to another class, or does not fit (see `from_dict`).
    """
    path = Path(path)
    if not path.exists():
        within = ", ".join(sorted(found.parent.name for found in path.parent.glob(f"*/{path.name}")))
        hint = f" It is in the folders below: {within}." if within else ""
        raise FileNotFoundError(f"There is no file {path}; weights have one beside them that says what they are.{hint}")
    data = read_json(path)
    saved_as = data.pop("_class_name", cls.__name__)
    data.pop("_version", None)
    if saved_as != cls.__name__:
        raise ValueError(f"{path} was saved from {saved_as}, but {cls.__name__} was asked for.")
    try:
        return from_dict(cls, data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file, in UTF-8 or UTF-16.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read or is not a JSON object.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}.") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(data).__name__}.")
    return data


def cli(
    options: type[T],
    *,
    prog: str | None = None,
    description: str | None = None,
    args: Sequence[str] | None = None,
    embedded: str | Path | None = None,
) -> T:
    """`options`, a dataclass, filled from the command line.

    A wrong option, and any ValueError or TypeError with which the dataclass refuses its values, ends the
    program with one sentence on stderr and exit code 2; `--help` prints the docstrings under the fields.

    Args:
        prog: name of the command, for the help.
        description: for the help; None takes the dataclass's docstring.
        args: the words; None takes those of this process.
        embedded: config.json of the weights that come with the project; the help tells its values where an option that
            is None takes those of the weights.
    """
    captured = io.StringIO()
    known = {} if embedded is None else read_json(embedded)
    helps = {"-h", "--help"} & set(sys.argv[1:] if args is None else args)
    try:
        with contextlib.redirect_stderr(captured), _telling(options, known, bool(helps)):
            made = tyro.cli(options, prog=prog, description=description, args=args, registry=_REGISTRY)
        _check_numbers(made)
        return made
    except (ValueError, TypeError) as error:
        fail(str(error))
    except SystemExit as stop:
        if not stop.code:
            raise
        fail(_one_sentence(captured.getvalue()))


def _check_numbers(options: Any) -> None:
    """Refuse NaN, which passes comparisons unseen, and seeds that generators of random numbers do not take once jobs
    have counted on from them."""
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        if dataclasses.is_dataclass(value):
            _check_numbers(value)
        values = value if isinstance(value, tuple) else (value,)
        if any(isinstance(one, float) and math.isnan(one) for one in values):
            raise ValueError(f"{item.name} must be a number, got nan.")
        if item.name == "seed" and isinstance(value, int) and not 0 <= value < 1 << 32:
            raise ValueError(f"seed must lie in [0, {(1 << 32) - 1}], got {value}.")


@contextlib.contextmanager
def _telling(options: Any, known: dict[str, Any], helps: bool) -> Iterator[None]:
    """Meanwhile the help tells for every field of the dataclasses inside `options` (or of itself, if there are none)
    whose default is None what the weights have, if that is in `known` (or in a dict inside). Where help is asked for,
    the sentences under fields are without the ends of their lines, which the library would show."""
    from typing_extensions import Doc

    values = {name: value for part in known.values() if isinstance(part, dict) for name, value in part.items()} | known
    outer, *inner = _nested(options)
    changed = []
    for cls in (outer, *inner):
        hints = typing.get_type_hints(cls, include_extras=True)
        told = sentences(cls) if helps else {}
        for field in dataclasses.fields(cls):
            hint = hints[field.name]
            notes = [Doc(told[field.name])] if field.name in told and _is_plain(hint) else []
            if (cls is not outer or not inner) and field.default is None and values.get(field.name) is not None:
                said = f"(default: that of the weights, here {values[field.name]})"
                notes.append(tyro.conf.arg(help_behavior_hint=said))
            if notes:
                owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
                changed.append((owner, field.name, owner.__annotations__[field.name]))
                owner.__annotations__[field.name] = Annotated[(hint, *notes)]
    try:
        yield
    finally:
        for owner, name, annotation in reversed(changed):
            owner.__annotations__[name] = annotation


def sentences(cls: type) -> dict[str, str]:
    """The sentence under every field of a dataclass, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for line, told in zip(body.body, body.body[1:], strict=False):
            if isinstance(line, ast.AnnAssign) and isinstance(told, ast.Expr) and isinstance(told.value, ast.Constant):
                found[ast.unparse(line.target)] = " ".join(str(told.value.value).split())
    return found


def _is_plain(hint: Any) -> bool:
    """Whether a type is one option, and no group of them."""
    inside = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    return not isinstance(inside, TypeVar) and not dataclasses.is_dataclass(inside)


def _nested(options: Any) -> list[type]:
    """A dataclass (or one with a type argument), and the dataclasses that its fields are, and theirs."""
    inside = [part for part in typing.get_args(options) if dataclasses.is_dataclass(part)]
    cls = typing.get_origin(options) or options
    hints = typing.get_type_hints(cls)
    inside += [hint for hint in hints.values() if isinstance(hint, type) and dataclasses.is_dataclass(hint)]
    return [cls, *(deeper for part in inside for deeper in _nested(part))]


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with `message` on stderr, in one line, and an exit code."""
    sys.stderr.write(one_line(message) + "\n")
    raise SystemExit(code)


def sentence_of(error: BaseException) -> str:
    """What an error says, in one line; the system's own errors with the file, without their numbers."""
    if isinstance(error, OSError) and error.strerror:
        return one_line(f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror}.")
    return one_line(str(error)) or ("There is not enough memory." if isinstance(error, MemoryError) else repr(error))


def one_line(text: str) -> str:
    """`text` as one line that is safe to print, see `printable`."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """`text` without control characters, which terminals would obey: they are written out. Line ends stay."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode() for sign in text
    )


def _one_sentence(report: str) -> str:
    """The sentence inside a boxed report of the command-line library; its later parts repeat the help."""
    lines = [line.strip(" │|") for line in report.splitlines() if not line.startswith(("╭", "╰"))]
    parts: list[list[str]] = [[]]
    for line in filter(None, lines):
        if line.strip("─-"):
            parts[-1].append(line)
        else:
            parts.append([])
    if "╭" not in report:  # a terminal without box characters: the title is a part of its own
        del parts[0]
    message = " ".join(parts[0])
    if message.startswith("Missing from"):  # the option's help follows its name
        names = [line.split()[0] for line in parts[0] if line.startswith("--")]
        return f"{' and '.join(names)} must be given (--help lists the options)." if names else message
    refused = re.match(r"Error parsing [^-\s]\S*: (.*)", message)
    if refused:  # the dataclass's own sentence
        return refused[1]
    message = _refused_words(message).rstrip(".")
    for part in parts[1:]:
        if part and part[0].startswith("Perhaps you meant"):
            names = [name for line in part for name in re.findall(r"^--[\w.-]+", line)]
            message += f"; perhaps you meant {' or '.join(names)}"
    return f"{message} (--help lists the options)."


_KINDS = {"FLOAT": "number", "INT": "whole number", "STR": "text", "PATH": "path", "BOOL": "yes or no (True, False)"}
"""What a value is, by the library's name."""


def _refused_words(message: str) -> str:
    """What the command-line library says of words that it cannot take as a value, said for people."""
    found = re.match(r"Error parsing (--[\w.-]+|\[.*?\]+|\{.*?\}): (.*)", message)
    if found is None:
        return message
    name, why = found.groups()
    name = name if name.startswith("--") else "The command line"
    if EMPTY in why or (several := re.match(r"Could not find valid parse for arguments: (\[.*\])", why)):
        words = [""] if EMPTY in why else ast.literal_eval(several[1])
        return f"{name}: {EMPTY}" if "" in words else f"{name} cannot take all of {' '.join(words)!r}"
    if whole := re.match(r"no type matching (.*?) could be instantiated from (\[.*?\])\. Got errors", why):
        kinds, words = _alternatives(whole[1]), ast.literal_eval(whole[2])
        return f"{name} takes {' or '.join(_kind(kind) for kind in kinds)}, got {' '.join(words)!r}"
    if number := re.match(r"(invalid literal for int\(\) with base 10|could not convert string to float): (.*)", why):
        return f"{name} takes a {'whole ' if 'int()' in number[1] else ''}number, got {number[2]}"
    return f"{name}: {why}"


def _alternatives(kinds: str) -> list[str]:
    """The parts of "{None}|FLOAT" between the bars outside its braces."""
    return re.findall(r"(?:\{[^}]*\}|\[[^|]*\]|[^|])+", kinds)


def _kind(kind: str) -> str:
    """One of the alternatives in words: "{FLOAT FLOAT}" is 2 numbers."""
    words = kind.strip("{}").split()
    if set(words) <= _KINDS.keys():
        return f"a {_KINDS[words[0]]}" if len(words) == 1 else f"{len(words)} {_KINDS[words[0]]}s"
    if kind.startswith("[") and (first := words[0].strip("[]")) in _KINDS:
        return f"{_KINDS[first]}s"
    return kind.strip("{}").replace(",", ", ")


def check_trackers(names: Iterable[str], available: Iterable[str]) -> None:
    """Refuse names of trackers that cannot be used; training libraries pass over some of them in silence.

    Raises:
        ValueError: a tracker is unknown, or its package is not installed.
    """
    ready = sorted(set(available))
    for name in names:
        if name not in (*ready, "none", "all"):
            told = f"those that are installed: {', '.join(ready)}" if ready else "none is installed"
            raise ValueError(f"There is no tracker {name!r} here ({told}); pip install {name}, or leave it out.")


def added(default: Any) -> Any:
    """A field that older files lack; there it has this value, which must mean what these files meant."""
    return dataclasses.field(default=default, metadata={"added": True})


def renamed(old: str, default: Any) -> Any:
    """A field that older files call `old`, with the same meaning."""
    return dataclasses.field(default=default, metadata={"old": old})


def reworded(old: dict[Any, Any], default: Any) -> Any:
    """A field whose values have other names in older files: old name -> name."""
    return dataclasses.field(default=default, metadata={"reworded": old})


def _fields(cls: type) -> tuple[dataclasses.Field, ...]:
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a dataclass.")
    return tuple(field for field in dataclasses.fields(cls) if field.init)


def _to_json(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, (list, tuple)):
        return [_to_json(item, where) for item in value]
    if isinstance(value, dict):
        return {str(key): _to_json(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{where} holds a {type(value).__name__}, which has no JSON form.")


def _from_dict(cls: type[T], data: Any, where: str) -> T:
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a JSON object, got {data!r}.")
    fields = {field.name: field for field in _fields(cls)}
    names = list(fields)
    new = {field.metadata.get("old", name): name for name, field in fields.items() if name not in data}
    data = {new.get(name, name): value for name, value in data.items()}
    unknown = [name for name in data if name not in names]
    missing = [name for name in names if name not in data and not fields[name].metadata.get("added")]
    if unknown:
        raise ValueError(f"{where} has no field {', '.join(map(repr, unknown))}; known fields: {', '.join(names)}.")
    if missing:
        raise ValueError(f"{where} lacks the field {', '.join(map(repr, missing))}.")
    for name, field in fields.items():
        old = field.metadata.get("reworded", {})
        if name in data and isinstance(data[name], str):
            data[name] = old.get(data[name], data[name])
    hints = typing.get_type_hints(cls)
    return cls(**{name: _value(hints[name], data[name], f"{where}.{name}") for name in names if name in data})


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value`, read from JSON, as the annotation `hint` wants it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Annotated:
        return _value(args[0], value, where)
    if origin is Literal:
        if value in args:
            return value
        raise ValueError(f"{where} must be one of {', '.join(map(repr, args))}, got {value!r}.")
    if origin in (Union, types.UnionType):
        return _union(args, value, where)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        return _sequence(origin, args, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _from_dict(hint, value, where)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max and isinstance(value, int):
            raise ValueError(f"{where} is too large for a number.")
        return float(value)
    if hint is type(None) and value is None:
        return value
    if hint in (bool, int, str) and type(value) is hint:
        return value
    raise ValueError(f"{where} must be {getattr(hint, '__name__', hint)}, got {value!r}.")


def _union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [hint for hint in args if hint is not type(None)]
    exact = [hint for hint in choices if type(value) is hint]  # 3 stays an int in `float | int`
    reasons = []
    for hint in exact + choices:
        try:
            return _value(hint, value, where)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0])


def _sequence(origin: type, args: tuple[Any, ...], value: Sequence[Any], where: str) -> Any:
    if origin is list or (len(args) == 2 and args[1] is Ellipsis):
        hints = [args[0]] * len(value)
    else:
        hints = list(args)
    if len(hints) != len(value):
        raise ValueError(f"{where} must have {len(hints)} items, got {len(value)}.")
    return origin(_value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True)))
