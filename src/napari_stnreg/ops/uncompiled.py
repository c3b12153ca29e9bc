"""Functions that ``torch.compile`` runs as they are: what computes with grids, in NumPy and in double precision."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

Arguments = ParamSpec("Arguments")
ReturnType = TypeVar("ReturnType")

_wrappers: list[Any] = []


def uncompiled(function: Callable[Arguments, ReturnType]) -> Callable[Arguments, ReturnType]:
    """Let ``torch.compile`` call a function instead of tracing it.

    The same as :func:`torch.compiler.disable`, which takes a second to import the compiler; here it is imported by
    those who compile.
    """

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> ReturnType:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if function not in _disabled:
            _disabled[function] = _disable(function)
        return cast(ReturnType, _disabled[function](*args, **kwargs))

    wrapper._torchdynamo_disable = True  # type: ignore[attr-defined]
    _wrappers[:] = [wrapper]  # all have the same code
    return wrapper


_disabled: dict[Callable[..., Any], Callable[..., Any]] = {}


def _disable(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function without the compiler, and let the compiler leave its wrapper alone."""
    from torch._dynamo import disable
    from torch._dynamo.eval_frame import skip_code

    for wrapper in _wrappers:
        skip_code(wrapper.__code__)
    _wrappers.clear()
    disabled: Callable[..., Any] = disable(function)
    return disabled
