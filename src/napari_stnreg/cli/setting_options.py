"""Options of the command line that are made from settings, and read back as settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from napari_stnreg.core.settings import Settings

Kind = TypeVar("Kind", bound=Settings)


def add_setting(group: Any, name: str, field: FieldInfo, choices: Mapping[str, str] | None = None) -> None:
    """One option for a field of the settings; what is not written is left to the model's default.

    Parameters
    ----------
    group
        Where the option is shown.
    name, field
        A field of the settings.
    choices
        A line of help for each value.
    """
    option, text = "--" + name.replace("_", "-"), str(field.description or "").rstrip(".")
    text += "".join(f"; {key}: {value.rstrip('.')}" for key, value in (choices or {}).items())
    if field.annotation is bool:
        how: Any = argparse.BooleanOptionalAction if field.default else "store_true"
        group.add_argument(option, action=how, default=argparse.SUPPRESS, help=_plain(text))
        return
    if field.default is not None:
        text += f" (default: {field.default})"
    group.add_argument(option, metavar=_metavar(field.annotation), default=argparse.SUPPRESS, help=_plain(text))


def _metavar(kind: Any) -> str:
    """What stands for an option's value: its choices, or what sort of value it is."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return {int: "N", float: "NUMBER"}.get(kind, "NAME")


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def written_settings(kind: type[Kind], options: argparse.Namespace, **converted: Any) -> Kind:
    """The settings that were written; the model itself checks and converts them.

    Parameters
    ----------
    kind
        Whose fields they are.
    options
        What was written.
    converted
        Fields whose text had to be understood first.

    Raises
    ------
    InputError
        If a value is not allowed.
    """
    names = kind.model_fields
    return kind.parse(**{name: value for name, value in vars(options).items() if name in names} | converted)
