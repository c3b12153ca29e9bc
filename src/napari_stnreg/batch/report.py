"""The report of a batch: one HTML page with scores and pictures that needs no other file."""

from __future__ import annotations

import base64
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as imageio

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.image import Image
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.visualization.slices import registration_pictures

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Result

MAX_SIDE = 256
"""Longest side of a picture in pixels."""
PICTURES = {"before": "before", "after": "after", "grid": "deformed grid"}
"""Names of the picture files, and their texts."""
SCORES = (
    ("ncc", "NCC", "higher"),
    ("local_ncc", "local NCC", "higher"),
    ("mutual_information", "mutual information", "higher"),
    ("dice_mean", "Dice", "higher"),
    ("hausdorff95_mean", "Hausdorff 95", "lower"),
    ("landmark_median", "landmarks, median", "lower"),
)
"""Scores that get a column: name in the table, title, direction of improvement."""


def write_pictures(folder: Path, fixed: Image, moving: Image, result: Result, settings: RegistrationSettings) -> None:
    """Write ``before.png``, ``after.png`` and ``grid.png`` of one pair; of volumes the middle slice."""
    pictures = registration_pictures(
        fixed,
        moving,
        result.transform,
        fixed_channel=settings.fixed_channel,
        moving_channel=settings.moving_channel,
        max_side=MAX_SIDE,
    )
    for name, values in pictures.items():
        imageio.imwrite(folder / f"{name}.png", values)


def write_summary(
    path: Path, rows: Sequence[Mapping[str, Any]], folder: Path, settings: RegistrationSettings, *, total: int
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The HTML file.
    rows
        Finished rows of the table.
    folder
        Folder that contains a folder with pictures for each row.
    settings
        Settings of the batch.
    total
        Number of rows when the batch is finished.
    """
    import jinja2  # it takes a while to import, and only batches need it

    shown = [score for score in SCORES if any(_number(row, f"{score[0]}_after") is not None for row in rows)]
    given = {name: value for name, value in settings.model_dump(exclude_unset=True).items() if value is not None}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("summary.html.jinja").render(
        counts=f"{len(rows)} of {total} pairs" if len(rows) < total else f"{total} pairs",
        failed=sum(row["state"] == "failed" for row in rows),
        verdicts=", ".join(
            f"{sum(row.get('verdict') == name for row in rows)} {name}" for name in ("good", "doubtful", "failed")
        ),
        settings=json.dumps(given) if given else "",
        columns=[title for _, title, _ in shown],
        rows=[_row_cells(row, folder, shown) for row in rows],
        medians=_median_cells([row for row in rows if row["state"] != "failed"], shown),
    )
    write_text(path, page + "\n")


def _row_cells(row: Mapping[str, Any], folder: Path, shown: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    cells: dict[str, Any] = {"name": row["name"], "warnings": row.get("warnings"), "error": None}
    verdict = row.get("verdict")
    cells |= {"verdict": verdict or "-", "reasons": row.get("reasons"), "confidence": _text(_number(row, "confidence"))}
    cells["verdict_mark"] = {"good": "good", "failed": "bad", "doubtful": "doubtful"}.get(str(verdict), "")
    if row["state"] == "failed":
        return cells | {"error": row["error"], "warnings": None}
    scores = []
    for key, _, better in shown:
        before, after = _number(row, f"{key}_before"), _number(row, f"{key}_after")
        mark = ""
        if before is not None and after is not None and before != after:
            mark = "good" if (after > before) == (better == "higher") else "bad"
        scores.append({"before": _text(before), "after": _text(after), "mark": mark})
    folded = _number(row, "folding_fraction")
    files = [(text, folder / row["name"] / f"{name}.png") for name, text in PICTURES.items()]
    return cells | {
        "pictures": [{"text": text, "data": _base64(path)} for text, path in files],
        "scores": scores,
        "folded": _text(folded, percent=True),
        "folded_mark": "bad" if folded else "good",
        "seconds": _text(_number(row, "seconds")),
    }


def _median_cells(rows: Sequence[Mapping[str, Any]], shown: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    def median(key: str) -> float | None:
        values = [value for row in rows if (value := _number(row, key)) is not None]
        return statistics.median(values) if values else None

    scores = [
        {"before": _text(median(f"{key}_before")), "after": _text(median(f"{key}_after")), "mark": ""}
        for key, _, _ in shown
    ]
    folded = _text(median("folding_fraction"), percent=True)
    return {"count": len(rows), "scores": scores, "folded": folded, "seconds": _text(median("seconds"))}


def _base64(path: Path) -> str:
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _text(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2g} %" if percent else f"{value:.3g}"
