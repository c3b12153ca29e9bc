"""One page for a whole batch: the table of scores with pictures, in a single file that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as imageio
import numpy as np
import numpy.typing as npt

from napari_stnreg.core.atomic_io import write_text
from napari_stnreg.core.grid import Grid
from napari_stnreg.core.image import Image
from napari_stnreg.registration.settings import RegistrationSettings
from napari_stnreg.resampling.warp import warp
from napari_stnreg.visualization.deformation import deformed_grid
from napari_stnreg.visualization.overlays import overlay, rescaled

if TYPE_CHECKING:
    from napari_stnreg.registration.result import Result

PICTURES = {"before": "before", "after": "after", "grid": "deformed grid"}
_LONGEST = 256
_SHOWN = (
    ("ncc", "NCC", "higher"),
    ("local_ncc", "local NCC", "higher"),
    ("mutual_information", "mutual information", "higher"),
    ("dice_mean", "Dice", "higher"),
    ("hausdorff95_mean", "Hausdorff 95", "lower"),
    ("landmark_median", "landmarks, median", "lower"),
)
_STYLE = """
:root { color-scheme: light dark; --line: #8885; --good: #1a7f37; --bad: #cf222e; }
@media (prefers-color-scheme: dark) { :root { --good: #4ac26b; --bad: #ff7b72; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1500px; padding: 0 1.5em; }
h1 { font-size: 1.5em; } p { max-width: 60em; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .4em .7em; border-bottom: 1px solid var(--line);
text-align: left; vertical-align: middle; font-variant-numeric: tabular-nums; }
th { position: sticky; top: 0; background: Canvas; } td.n { white-space: nowrap; } .good { color: var(--good); }
.bad { color: var(--bad); } img { width: 128px; height: auto; image-rendering: pixelated; display: block; }
img:hover { width: 256px; } .name { font-weight: 600; overflow-wrap: anywhere; }
.note { font-size: .85em; font-weight: 400; opacity: .8; } .wide { overflow-x: auto; }
"""


def job_pictures(folder: Path, fixed: Image, moving: Image, result: Result, settings: RegistrationSettings) -> None:
    """Write ``before.png``, ``after.png`` and ``grid.png``; of volumes the middle slice along the first axis."""
    grid = fixed.grid
    if grid.ndim == 3:
        middle = grid.shape[0] // 2
        grid = grid.cropped((middle, 0, 0), (middle + 1, *grid.shape[1:]))
    thin = max(int(np.ceil(max(grid.shape) / _LONGEST)), 1)
    shape = [*grid.shape[:-2], *(max(n // thin, 1) for n in grid.shape[-2:])]
    small = grid.resized(shape)
    still = _scalar(fixed, settings.fixed_channel, small, None)
    before = _scalar(moving, settings.moving_channel, small, None)
    after = _scalar(moving, settings.moving_channel, small, result)
    lines = _lines(result, small, moving)
    shown = np.maximum((after * 110).astype(np.uint8), lines)
    for name, values in (("before", overlay(still, before)), ("after", overlay(still, after)), ("grid", shown)):
        imageio.imwrite(folder / f"{name}.png", values)


def _scalar(image: Image, channel: int | None, grid: Grid, result: Result | None) -> npt.NDArray[np.float32]:
    plain = image.replace(data=np.nan_to_num(image.intensity(channel)), rgb=False, mask=None)
    seen = warp(plain, None if result is None else result.transform, grid)
    values = rescaled(seen.data, seen.mask)
    return np.asarray(values.reshape(grid.shape[-2:]), dtype=np.float32)


def _lines(result: Result, grid: Grid, moving: Image) -> npt.NDArray[np.uint8]:
    lines, _ = deformed_grid(result.transform, grid, moving.grid)
    lines = np.asarray(lines).reshape(lines.shape[-2], lines.shape[-1])
    # Drawn finer than the picture: the brightest of the pixels that fall on one of it.
    rows, columns = (int(n) for n in grid.shape[-2:])
    blocks = lines.reshape(rows, lines.shape[0] // rows, columns, lines.shape[1] // columns)
    return np.asarray(blocks.max(axis=3).max(axis=1))


def write_summary(
    path: Path, rows: Sequence[Mapping[str, Any]], folder: Path, settings: RegistrationSettings, *, total: int
) -> None:
    """Write the page.

    Parameters
    ----------
    path
        The file.
    rows
        Those that are finished.
    folder
        Where the rows' own folders are.
    settings
        Of the batch.
    total
        How many rows there will be.
    """
    shown = [column for column in _SHOWN if any(_number(row, f"{column[0]}_after") is not None for row in rows)]
    failed = sum(row["state"] == "failed" for row in rows)
    title = "Batch registration"
    counts = f"{len(rows)} of {total} pairs" if len(rows) < total else f"{total} pairs"
    told = {name: value for name, value in settings.model_dump(exclude_unset=True).items() if value is not None}
    head = "".join(f"<th>{html.escape(text)}</th>" for _, text, _ in shown)
    body = [
        f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>{counts}, {failed} failed. Settings: {html.escape(json.dumps(told) if told else 'the defaults')}.</p>",
        "<p>Fixed in green and moving in magenta: gray where they agree. Scores are before &rarr; after; the last row "
        "has their medians.</p>",
        f"<div class='wide'><table><thead><tr><th>pair</th><th>before</th><th>after</th><th>deformed grid</th>{head}"
        "<th>folded</th><th>seconds</th></tr></thead><tbody>",
        *(_row(row, folder, shown) for row in rows),
        _medians([row for row in rows if row["state"] != "failed"], shown),
        "</tbody></table></div></body></html>\n",
    ]
    write_text(path, "\n".join(body))


def _row(row: Mapping[str, Any], folder: Path, shown: Sequence[tuple[str, str, str]]) -> str:
    name = html.escape(str(row["name"]))
    if row["state"] == "failed":
        error = html.escape(str(row["error"]))
        return f"<tr><td class='name'>{name}</td><td class='bad' colspan='{len(shown) + 5}'>failed: {error}</td></tr>"
    cells = [f"<td class='name'>{name}{_note(row)}</td>"]
    cells += [f"<td>{_picture(folder / row['name'] / f'{key}.png', text)}</td>" for key, text in PICTURES.items()]
    for key, _, better in shown:
        before, after = _number(row, f"{key}_before"), _number(row, f"{key}_after")
        mark = ""
        if before is not None and after is not None and before != after:
            mark = "good" if (after > before) == (better == "higher") else "bad"
        cells.append(f"<td class='n {mark}'>{_text(before)} &rarr; {_text(after)}</td>")
    folded = _number(row, "folding_fraction")
    cells.append(f"<td class='{'bad' if folded else 'good'}'>{_text(folded, percent=True)}</td>")
    cells.append(f"<td>{_text(_number(row, 'seconds'))}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _medians(rows: Sequence[Mapping[str, Any]], shown: Sequence[tuple[str, str, str]]) -> str:
    def median(key: str) -> float | None:
        values = [value for row in rows if (value := _number(row, key)) is not None]
        return statistics.median(values) if values else None

    cells = [
        f"<td class='n'>{_text(median(f'{key}_before'))} &rarr; {_text(median(f'{key}_after'))}</td>"
        for key, _, _ in shown
    ]
    ends = f"<td>{_text(median('folding_fraction'), percent=True)}</td><td>{_text(median('seconds'))}</td>"
    return f"<tr><td class='name' colspan='4'>median of {len(rows)}</td>{''.join(cells)}{ends}</tr>"


def _note(row: Mapping[str, Any]) -> str:
    return f"<div class='note'>{html.escape(str(row['warnings']))}</div>" if row.get("warnings") else ""


def _picture(path: Path, text: str) -> str:
    try:
        data = base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return "no picture"
    return f"<img alt='{text}' src='data:image/png;base64,{data}'>"


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _text(value: float | None, *, percent: bool = False) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.2g} %" if percent else f"{value:.3g}"
