"""The trainings behind the table of networks: data, settings and what is measured, one module for each kind of data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One training and its judgment.

    Parameters
    ----------
    title
        What it is, for the table.
    needs
        The file or folder in the data folder.
    data
        Makes the training data of the data folder; ``None`` for a model that comes with the package.
    settings
        Of :class:`napari_stnreg.TrainingSettings`.
    judge
        Measures a model on pairs of subjects that it never saw: a row of figures for each pair, those of one pass
        named plainly, those after refinement with ``refined_`` before.
    refine
        Steps of refinement that are measured too; 0 for none.
    goal
        What the project asks of it, in words.
    warm_start
        Name of the recipe whose model the training continues from, if any.
    bundled
        Name of the bundled model, for recipes that train nothing.
    """

    title: str
    needs: str
    data: Callable[[Path], Any] | None
    settings: Mapping[str, Any]
    judge: Callable[[Any, Path, int], Iterable[Row]]
    refine: int = 0
    goal: str = ""
    warm_start: str | None = None
    bundled: str | None = None


def all_recipes() -> dict[str, Recipe]:
    """Every recipe by its name."""
    from benchmark.recipes import brain, bundled, digits, electron, heads, heart, hippocampus

    found: dict[str, Recipe] = {}
    for module in (digits, heart, hippocampus, brain, heads, electron, bundled):
        found |= module.RECIPES
    return found
