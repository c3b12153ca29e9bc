"""The scorecard as a table: what was measured before and after, which way is better, and what is good or bad."""

from __future__ import annotations

import csv
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
    "jacobian_min": "Jacobian, smallest",
    "jacobian_p01": "Jacobian, 1st percentile",
    "jacobian_median": "Jacobian, median",
    "jacobian_p99": "Jacobian, 99th percentile",
    "jacobian_max": "Jacobian, largest",
    "folding_fraction": "folding fraction",
    "inverse_consistency": "inverse consistency",
}
"""Names of the scores for a person."""

COLUMNS = ("group", "name", "item", "before", "after", "unit", "better", "mark")
_NO_CHANGE = 1e-3


@dataclass(frozen=True)
class Score:
    """One line of a scorecard.

    Parameters
    ----------
    group
        ``"image"``, ``"labels"``, ``"landmarks"`` or ``"deformation"``.
    name
        What was measured; a key of :data:`TITLES`.
    item
        Which label, which landmark (counted from 0) or which summary (``"mean"``, ``"median"``, ``"max"`` ...).
    before, after
        Without and with the transform; ``None`` where there is no such value. NaN where it is not defined.
    unit
        Of lengths; empty for plain numbers.
    better
        Which way is better; ``"zero"`` for what ought to be zero; empty where neither is.
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
        """Whether the registration made it better or worse by more than a thousandth, or a zero is one or not."""
        if self.better == "zero":
            return "" if self.after is None or math.isnan(self.after) else "bad" if self.after > 0 else "good"
        if self.better == "" or self.before is None or self.after is None:
            return ""
        gain = self.after - self.before if self.better == "higher" else self.before - self.after
        least = _NO_CHANGE * max(abs(self.before), abs(self.after))
        return "good" if gain > least else "bad" if gain < -least else ""

    @property
    def title(self) -> str:
        """What a person reads."""
        name = TITLES.get(self.name, self.name)
        return f"{name}, {self._item_title}" if self.item else name

    @property
    def _item_title(self) -> str:
        what = {"labels": "label ", "landmarks": "pair "}.get(self.group, "")
        return what + self.item if self.item.lstrip("-").isdigit() else self.item


@dataclass(frozen=True)
class Scorecard:
    """All scores of one registration.

    Parameters
    ----------
    scores
        The lines, in the order in which they are shown.
    info
        Names of the images, family and unit of the transform, and what else describes the run.
    warnings
        Sentences that a person should read.
    """

    scores: tuple[Score, ...]
    info: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def value(self, name: str, when: Literal["before", "after"] = "after", item: str = "") -> float | None:
        """One number, such as ``value("dice", "before", "mean")``; ``None`` if it was not measured."""
        for score in self.scores:
            if (score.name, score.item) == (name, item):
                return score.before if when == "before" else score.after
        return None

    def row(self) -> dict[str, float | None]:
        """The scores that sum the rest up, by names like ``dice_mean_after``: one row of a table of many pairs."""
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
        """Plain values: ``info``, ``warnings``, and ``scores`` as a list of rows of :data:`COLUMNS`."""
        rows = [{**asdict(score), "mark": score.mark} for score in self.scores]
        return {"info": dict(self.info), "scores": rows, "warnings": list(self.warnings)}

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON; what is not a finite number is null."""
        content = self.to_dict()
        for row in content["scores"]:
            for when in ("before", "after"):
                if row[when] is not None and not math.isfinite(row[when]):
                    row[when] = None
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A table with the columns :data:`COLUMNS`; undefined values are empty cells."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for score in self.scores:
            cells = {**asdict(score), "mark": score.mark}
            writer.writerow([_cell(cells[name]) for name in COLUMNS])
        return stream.getvalue()

    def to_text(self, *, pairs: bool = True) -> str:
        """A table for a terminal; without ``pairs`` the single landmarks are left out."""
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


def number(value: float | None) -> str:
    """A value for a person: four digits, a dash where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.8g}" if isinstance(value, float) else str(value)
