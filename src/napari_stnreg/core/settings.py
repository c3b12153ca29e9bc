"""What the settings of a registration, a training and a stack have in common."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from napari_stnreg.core.errors import InputError


class Settings(BaseModel):
    """Settings that cannot be changed once made; a name that is not among the fields is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Build settings, turning a validation failure into one plain sentence.

        Raises
        ------
        InputError
            If a value is not allowed.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            text = str(first["msg"]).removeprefix("Value error, ")
            raise InputError(f"Setting '{name}': {text}.") from error

    @classmethod
    def given(cls, settings: Self | None, options: dict[str, Any]) -> Self:
        """The settings a function was given as an object, by name, or both; what is given by name wins.

        Raises
        ------
        InputError
            If a value is not allowed.
        """
        if settings is None:
            return cls.parse(**options)
        return cls.parse(**{**settings.model_dump(exclude_unset=True), **options}) if options else settings
