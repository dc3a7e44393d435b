"""Forms out of dataclasses of options: a field becomes a component, its sentence the explanation."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

import gradio as gr

from vision.config import sentences

AS_WEIGHTS = "as the weights say"
"""Choice of a field that may be None."""


class Form:
    """Components for the fields of a dataclass of options; made where it is called inside a page.

    Fields that are neither numbers, texts, switches nor choices keep their defaults and are not shown.

    Args:
        options: the dataclass.
        leave_out: names of fields that the page shows elsewhere, or not at all.
    """

    def __init__(self, options: type, leave_out: Sequence[str] = ()):
        self.options, told, hints = options, sentences(options), typing.get_type_hints(options)
        self.components: dict[str, gr.components.Component] = {}
        for field in dataclasses.fields(options):
            default = None if field.default is dataclasses.MISSING else field.default
            if field.name not in leave_out:
                made = component(field.name, hints[field.name], default, told.get(field.name, ""))
                if made is not None:
                    self.components[field.name] = made

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The components, in order."""
        return list(self.components.values())

    def read(self, values: Sequence[Any], **more: Any) -> Any:
        """The options that the values of the components, in order, stand for; `more` sets other fields.

        Raises:
            ValueError: the dataclass refuses a value.
        """
        hints = typing.get_type_hints(self.options)
        chosen: dict[str, Any] = {}
        for name, value in zip(self.components, values, strict=True):
            plain, optional = unwrapped(hints[name])
            if optional and value in (None, "", AS_WEIGHTS):
                chosen[name] = None
            elif plain in (int, float):
                chosen[name] = number(name, value, plain)
            elif value is not None:
                chosen[name] = value
        return self.options(**chosen, **more)


def number(name: str, value: Any, kind: type) -> Any:
    """A number of that kind out of what a visitor typed.

    Raises:
        ValueError: it is none.
    """
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {'a whole' if kind is int else 'a'} number, got {value!r}.") from None


def unwrapped(hint: Any) -> tuple[Any, bool]:
    """A type without None, and whether None was allowed."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
        return (kinds[0] if len(kinds) == 1 else hint), len(kinds) < len(typing.get_args(hint))
    return hint, False


def component(name: str, hint: Any, default: Any, told: str) -> gr.components.Component | None:
    """The component of a field, or None for a type that a form cannot show."""
    plain, optional = unwrapped(hint)
    common = {"label": name.replace("_", " "), "info": told, "elem_classes": [f"field-{name}"]}
    if typing.get_origin(plain) is Literal:
        choices = [choice for choice in typing.get_args(plain) if choice is not None]
        first = [AS_WEIGHTS] if optional or None in typing.get_args(plain) else []
        return gr.Dropdown([*first, *choices], value=default or (first or choices)[0], **common)
    if plain is bool:
        return gr.Checkbox(value=bool(default), **common)
    if plain in (int, float) and optional:  # an empty number field would come back as 0
        return gr.Textbox(value="" if default is None else str(default), **common, placeholder=AS_WEIGHTS)
    if plain in (int, float):
        return gr.Number(value=default, **common, precision=0 if plain is int else None)
    if plain is str:
        return gr.Textbox(value=default or "", **common)
    return None
