"""File dialogs of the transform workbench."""

from __future__ import annotations

from pathlib import Path

from qtpy.QtWidgets import QFileDialog, QWidget

from napari_stnreg.io.transform_entry import TransformEntry


def file_to_load(parent: QWidget) -> str | None:
    """Ask for a transform file to load; return ``None`` if the dialog was canceled."""
    from napari_stnreg.io.transform_io import LOAD_ENDINGS

    path, _ = QFileDialog.getOpenFileName(parent, "Load a transform", "", file_filters(LOAD_ENDINGS, all_first=True))
    return path or None


def file_to_save(parent: QWidget, entry: TransformEntry) -> str | None:
    """Ask for a file to save a transform to, in our own format by default; return ``None`` if canceled."""
    from napari_stnreg.io.transform_io import SAVE_ENDINGS

    name = "".join(c if c.isalnum() or c in "-_+." else "_" for c in f"{entry.moving}_to_{entry.fixed}")
    filters = file_filters(SAVE_ENDINGS)
    path, _ = QFileDialog.getSaveFileName(parent, "Save the transform", f"{name}.safetensors", filters)
    if not path:
        return None
    return path if Path(path).suffix else f"{path}.safetensors"


def file_filters(endings: tuple[str, ...], *, all_first: bool = False) -> str:
    """Return the formats of transform files as filters of Qt's file dialogs."""
    from napari_stnreg.io.formats import TRANSFORM_FORMATS

    names = {suffix: one.name for one in reversed(TRANSFORM_FORMATS) for suffix in one.suffixes}
    entries = [f"{names[ending]} (*{ending})" for ending in endings]
    if all_first:
        entries.insert(0, f"Transforms ({' '.join(f'*{ending}' for ending in endings)})")
    return ";;".join(entries)
