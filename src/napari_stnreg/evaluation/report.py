"""The scorecard of a registration: scores before and after as a table, text, CSV, JSON or HTML."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Better = Literal["higher", "lower", "zero", ""]
Mark = Literal["good", "bad", ""]

TITLES = {
    "ncc": "NCC",
    "local_ncc": "local NCC",
    "mutual_information": "mutual information",
    "normalized_mutual_information": "normalized mutual information",
    "ssim": "SSIM",
    "mse": "MSE",
    "psnr": "PSNR",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hausdorff95": "Hausdorff 95",
    "mean_surface_distance": "mean surface distance",
    "landmark": "landmark error",
    "point_to_surface": "point-to-surface distance",
    "jacobian_min": "Jacobian, smallest",
    "jacobian_p01": "Jacobian, 1st percentile",
    "jacobian_median": "Jacobian, median",
    "jacobian_p99": "Jacobian, 99th percentile",
    "jacobian_max": "Jacobian, largest",
    "folding_fraction": "folding fraction",
    "inverse_consistency": "inverse consistency",
}
"""Display names of the scores."""

COLUMNS = ("group", "name", "item", "before", "after", "unit", "better", "mark")
_MIN_RELATIVE_CHANGE = 1e-3
"""Smaller relative changes are marked neither better nor worse."""


@dataclass(frozen=True)
class Score:
    """One row of a scorecard.

    Parameters
    ----------
    group
        ``"image"``, ``"labels"``, ``"landmarks"``, ``"surfaces"`` or ``"deformation"``.
    name
        Name of the measure, a key of :data:`TITLES`.
    item
        The label, the index of the landmark pair, or the summary (``"mean"``, ``"median"``, ``"max"`` ...).
    before, after
        Without and with the transform; ``None`` if not measured, NaN if undefined.
    unit
        Unit of lengths; empty for dimensionless numbers.
    better
        The direction of improvement; ``"zero"`` for scores that should be zero; empty if there is none.
    """

    group: str
    name: str
    item: str = ""
    before: float | None = None
    after: float | None = None
    unit: str = ""
    better: Better = ""

    @property
    def mark(self) -> Mark:
        """Rate the change: ``"good"`` or ``"bad"`` if it exceeds a thousandth, or if a score should be zero."""
        if self.better == "zero":
            return "" if self.after is None or math.isnan(self.after) else "bad" if self.after > 0 else "good"
        if self.better == "" or self.before is None or self.after is None:
            return ""
        gain = self.after - self.before if self.better == "higher" else self.before - self.after
        threshold = _MIN_RELATIVE_CHANGE * max(abs(self.before), abs(self.after))
        return "good" if gain > threshold else "bad" if gain < -threshold else ""

    @property
    def title(self) -> str:
        """Display name with label, landmark pair (counted from 1, as in the landmark panel), or summary."""
        name = TITLES.get(self.name, self.name)
        return f"{name}, {self._item_title}" if self.item else name

    @property
    def _item_title(self) -> str:
        if not self.item.lstrip("-").isdigit():
            return self.item
        return {"labels": f"label {self.item}", "landmarks": f"pair {int(self.item) + 1}"}.get(self.group, self.item)


@dataclass(frozen=True, repr=False)
class Scorecard:
    """All scores of one registration.

    Parameters
    ----------
    scores
        The rows in display order.
    info
        Names of the images, family and unit of the transform.
    warnings
        Warnings as sentences.
    """

    scores: tuple[Score, ...]
    info: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def value(self, name: str, when: Literal["before", "after"] = "after", item: str = "") -> float | None:
        """Return one score, such as ``value("dice", "before", "mean")``; ``None`` if it was not measured."""
        for score in self.scores:
            if (score.name, score.item) == (name, item):
                return score.before if when == "before" else score.after
        return None

    def row(self) -> dict[str, float | None]:
        """Return the summary scores by names like ``dice_mean_after``: one row of a table of many pairs."""
        found: dict[str, float | None] = {}
        for score in self.scores:
            if score.item.lstrip("-").isdigit():
                continue
            name = f"{score.name}_{score.item}" if score.item else score.name
            for when, value in (("before", score.before), ("after", score.after)):
                if score.group == "deformation":
                    if when == "after":
                        found[name] = value
                elif value is not None:
                    found[f"{name}_{when}"] = value
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: ``info``, ``warnings``, and ``scores`` as a list of rows of :data:`COLUMNS`."""
        rows = [{**asdict(score), "mark": score.mark} for score in self.scores]
        return {"info": dict(self.info), "scores": rows, "warnings": list(self.warnings)}

    def to_json(self) -> str:
        """Return :meth:`to_dict` as JSON; non-finite numbers become null."""
        content = self.to_dict()
        for row in content["scores"]:
            for when in ("before", "after"):
                if row[when] is not None and not math.isfinite(row[when]):
                    row[when] = None
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """Return a table with the columns :data:`COLUMNS`; undefined values are empty cells."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for score in self.scores:
            cells = {**asdict(score), "mark": score.mark}
            writer.writerow([_cell(cells[name]) for name in COLUMNS])
        return stream.getvalue()

    def to_text(self, *, pairs: bool = True) -> str:
        """Return a table for the terminal; without ``pairs`` the single landmarks are omitted."""
        rows = [("", "before", "after", "")]
        for score in self.scores:
            if not pairs and score.group == "landmarks" and score.item.isdigit():
                continue
            unit = f" {score.unit}" if score.unit else ""
            mark = {"good": "better" if score.before is not None else "good", "bad": "worse"}.get(score.mark, "")
            if score.mark == "bad" and score.before is None:
                mark = "bad"
            rows.append((score.title, number(score.before), number(score.after) + unit, mark))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip() for row in rows
        ]
        return "\n".join([*lines, *self.warnings])

    def __repr__(self) -> str:
        return (
            f"<Scorecard: {self.info.get('moving', '')} -> {self.info.get('fixed', '')}>\n{self.to_text(pairs=False)}"
        )

    def _repr_html_(self) -> str:
        """Return the scores as an HTML table, for notebooks; single landmarks are omitted."""
        color = {"good": "#1a7f37", "bad": "#cf222e", "": "inherit"}
        rows = "".join(
            f"<tr><td>{html.escape(score.title)}</td><td>{number(score.before)}</td>"
            f"<td style='color:{color[score.mark]}'>{number(score.after)} {html.escape(score.unit)}</td></tr>"
            for score in self.scores
            if not (score.group == "landmarks" and score.item.isdigit())
        )
        notes = "".join(f"<p>{html.escape(text)}</p>" for text in self.warnings)
        return f"<table><tr><th></th><th>before</th><th>after</th></tr>{rows}</table>{notes}"


def number(value: float | None) -> str:
    """Format a value with four digits; a dash if there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)
