"""One key that switches between before and after, for the panel that showed a result last."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from napari.viewer import Viewer

KEY = "Shift-B"
"""A letter alone would be taken by the tools of Labels and Shapes layers."""
KEY_TEXT = "Shift+B"

_SWITCHES: WeakKeyDictionary[Viewer, list[tuple[object, Callable[[], Any]]]] = WeakKeyDictionary()


def claim_key(viewer: Viewer, owner: object, switch: Callable[[], Any]) -> None:
    """Let the key call a function of a panel, until another panel claims it or this one releases it."""
    switches = _SWITCHES.setdefault(viewer, [])
    if not switches:
        viewer.bind_key(KEY, _press, overwrite=True)
    switches[:] = [one for one in switches if one[0] is not owner]
    switches.append((owner, switch))


def release_key(viewer: Viewer, owner: object) -> None:
    """Give the key back to the panel that had it before."""
    switches = _SWITCHES.get(viewer, [])
    if not any(one[0] is owner for one in switches):
        return
    switches[:] = [one for one in switches if one[0] is not owner]
    if not switches:
        viewer.bind_key(KEY, None, overwrite=True)


def _press(viewer: Viewer) -> None:
    switches = _SWITCHES.get(viewer)
    if switches:
        switches[-1][1]()
