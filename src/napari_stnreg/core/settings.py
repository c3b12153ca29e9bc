"""Base class of the settings of registration, training and stack alignment."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_stnreg.core.errors import InputError


class Settings(BaseModel):
    """Immutable, validated settings; unknown names are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choice_help: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Help for the values of fields with choices, in one line each, by field name and value."""
    choice_titles: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Display names of such values, by field name and value; a value without one is shown as it is."""

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Build settings and report a validation failure as one sentence.

        Raises
        ------
        InputError
            If a name is unknown or a value is not allowed.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError(validation_message(error)) from error

    @classmethod
    def merge(cls, settings: Self | None, options: dict[str, Any]) -> Self:
        """Combine a settings object, or the defaults, with single options; the options win.

        Raises
        ------
        InputError
            If a name is unknown or a value is not allowed.
        """
        if settings is None:
            return cls.parse(**options)
        return cls.parse(**{**settings.model_dump(exclude_unset=True), **options}) if options else settings


def validation_message(error: ValidationError) -> str:
    """Return the first problem of a validation error, with the offending value, as one sentence."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "settings"
    if first["type"] == "extra_forbidden":
        return f"Setting '{name}' does not exist."
    text = str(first["msg"]).removeprefix("Value error, ").partition(", unable to parse")[0]
    if first["type"] not in ("value_error", "missing"):
        text += f", not {reprlib.repr(first['input'])}"
    return f"Setting '{name}': {text}."
