"""A training run as a film: one picture an epoch, the curve below it, on a time layer or in a file for a slide."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from napari_stnreg.core.errors import InputError
from napari_stnreg.core.grid import FloatArray, Grid
from napari_stnreg.visualization.overlays import limits_of

if TYPE_CHECKING:
    from napari_stnreg.io.napari_layers import LayerData
    from napari_stnreg.models.model import Model
    from napari_stnreg.teaching.classifier import ClassifierResult

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
SUPPORTED_SUFFIXES = (".gif", ".mp4")
_COLORS = ((46, 196, 243), (255, 159, 28), (232, 63, 111), (123, 211, 137))
_SMALLEST = 320
"""Films are at least this wide: a digit of 28 pixels would be a stamp on a slide."""


@dataclass(frozen=True, eq=False)
class Replay:
    """Pictures of a training and its curves.

    Parameters
    ----------
    frames
        ``(T, y, x)`` or ``(T, z, y, x)``; uint8 ``(T, y, x, 3)`` is color.
    times
        ``(T,)``, the epoch (or step) of each picture, rising.
    curves
        By name ``(N, 2)``: epoch and value.
    name
        What was trained.
    grid
        Where the pictures lie; ``None`` for unit pixels.
    unit
        What the times count.

    Raises
    ------
    InputError
        If there are no pictures, or not one time for each.
    """

    frames: npt.NDArray[Any]
    times: FloatArray
    curves: Mapping[str, FloatArray]
    name: str = "training"
    grid: Grid | None = None
    unit: str = "epoch"

    def __post_init__(self) -> None:
        if self.frames.ndim not in (3, 4) or not len(self.frames):
            raise InputError("A replay needs pictures of 2 or 3 dimensions, at least one; this training kept none.")
        if len(self.times) != len(self.frames):
            raise InputError(f"There are {len(self.frames)} pictures and {len(self.times)} times.")

    @property
    def color(self) -> bool:
        """Whether the pictures are RGB."""
        return self.frames.ndim == 4 and self.frames.shape[-1] == 3 and self.frames.dtype == np.uint8

    @classmethod
    def of_model(cls, model: Model, grid: Grid | None = None) -> Replay:
        """Of a model that was just trained; one that comes from a file has no pictures.

        Parameters
        ----------
        model
            With the pictures of its training.
        grid
            Where they lie; ``None`` for unit pixels.

        Raises
        ------
        InputError
            If it has none.
        """
        if model.replay is None or not len(model.replay):
            raise InputError(
                "This model holds no pictures of its training: it comes from a file, or was trained with 0 snapshots."
            )
        curves: dict[str, list[tuple[float, float]]] = {}
        for record in model.summary.get("curve", []):
            for key, value in (("loss", record["loss"]), ("validation", record["validation_loss"])):
                if value is not None:
                    curves.setdefault(key, []).append((record["epoch"], value))
        times = np.asarray(model.summary["replay_epochs"], dtype=np.float64)
        found = {key: np.array(points) for key, points in curves.items()}
        return cls(model.replay, times, found, model.name or "training", grid)

    @classmethod
    def of_classifiers(cls, result: ClassifierResult) -> Replay:
        """What the transformer showed its classifier, eight digits in a row, with the accuracy of both."""
        seen = result.frames()
        frames = np.moveaxis(seen, 1, 2).reshape(len(seen), seen.shape[2], -1)
        steps = np.array([item.step for item in result.progress], dtype=np.float64)
        curves = {
            name: np.column_stack([steps, [item.accuracy[name] for item in result.progress]])
            for name in result.progress[0].accuracy
        }
        return cls(frames, steps, curves, "what the classifier sees", unit="step")

    def at(self, position: int) -> dict[str, float]:
        """The value of each curve at one picture, by linear interpolation."""
        time = self.times[position]
        return {name: float(np.interp(time, points[:, 0], points[:, 1])) for name, points in self.curves.items()}

    def layer(self, time_unit: str = "pixel") -> LayerData:
        """A time layer ``(T, ...)``; napari's slider then runs through the pictures.

        Parameters
        ----------
        time_unit
            Unit of the first axis, which counts pictures: the one that the viewer's other layers have there, since
            napari wants them to agree.
        """
        from napari_stnreg.io.napari_layers import AXIS_LABELS, placement

        ndim = self.frames.ndim - 1 - self.color
        grid = self.grid or Grid.from_spacing(self.frames.shape[1 : ndim + 1])
        where = placement(grid)
        keywords: dict[str, Any] = {"units": (time_unit, *where["units"]), "axis_labels": ("t", *AXIS_LABELS[-ndim:])}
        if "affine" in where:
            affine = np.eye(ndim + 2)
            affine[1:, 1:] = where["affine"]
            keywords["affine"] = affine
        else:
            keywords |= {"scale": (1, *where["scale"]), "translate": (0, *where["translate"])}
        record = {"times": self.times.tolist(), "unit": self.unit,
                  "curves": {name: points.tolist() for name, points in self.curves.items()}}  # fmt: skip
        keywords |= {"name": f"{self.name} (replay)", "metadata": {"stnreg_replay": record}}
        if self.color:
            return self.frames, keywords | {"rgb": True}, "image"
        frames = np.asarray(self.frames, dtype=np.float32)
        return frames, keywords | {"contrast_limits": limits_of(frames)}, "image"

    @classmethod
    def of_layer(cls, data: npt.ArrayLike, metadata: Mapping[str, Any], name: str) -> Replay:
        """The replay that a layer made by :meth:`layer` holds.

        Raises
        ------
        InputError
            If it is none.
        """
        record = metadata.get("stnreg_replay")
        if record is None:
            raise InputError(f"'{name}' is not the replay of a training.")
        curves = {key: np.asarray(points, dtype=np.float64) for key, points in record["curves"].items()}
        times = np.asarray(record["times"], dtype=np.float64)
        return cls(np.asarray(data), times, curves, name.removesuffix(" (replay)"), unit=record["unit"])

    # -- a film

    def film(self, width: int = 480) -> npt.NDArray[np.uint8]:
        """Pictures with the curves below and a dot where each is, ``(T, y, x, 3)``; of volumes, the middle slice.

        Parameters
        ----------
        width
            Of the film in pixels; each pixel of a picture becomes a whole block where it is enlarged.
        """
        frames = self.frames if self.color else self._gray()
        factor = max(round(max(width, _SMALLEST) / frames.shape[2]), 1)
        pictures = frames.repeat(factor, axis=1).repeat(factor, axis=2)
        strips = [self._strip(t, pictures.shape[2]) for t in range(len(pictures))]
        film = np.concatenate([pictures, np.array(strips)], axis=1)
        # Video formats want even sides.
        return film[:, : film.shape[1] // 2 * 2, : film.shape[2] // 2 * 2]

    def _gray(self) -> npt.NDArray[np.uint8]:
        frames = self.frames if self.frames.ndim == 3 else self.frames[:, self.frames.shape[1] // 2]
        values = np.asarray(frames, dtype=np.float32)
        low, high = limits_of(values)
        gray = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
        return np.repeat(gray[..., None], 3, axis=3)

    def _strip(self, position: int, width: int) -> npt.NDArray[np.uint8]:
        from PIL import Image, ImageDraw  # imageio brings it

        height = 120
        picture = Image.new("RGB", (width, height), (24, 26, 32))
        pen = ImageDraw.Draw(picture)
        points = np.concatenate([p for p in self.curves.values() if len(p)] or [np.zeros((1, 2))])
        points = points[np.isfinite(points).all(axis=1)]
        low, high = points.min(axis=0), points.max(axis=0)
        span = np.where(high > low, high - low, 1.0)

        def place(point: FloatArray) -> tuple[float, float]:
            x, y = (point - low) / span
            return 10 + x * (width - 20), height - 10 - y * (height - 44)

        values, column = self.at(position), 10.0
        label = f"{self.unit} {self.times[position]:g}"
        pen.text((column, 8), label, fill=(235, 235, 235))
        column += pen.textlength(label) + 18
        for i, (name, curve) in enumerate(self.curves.items()):
            color = _COLORS[i % len(_COLORS)]
            whole = curve[np.isfinite(curve).all(axis=1)]
            if len(whole) > 1:
                pen.line([place(p) for p in whole], fill=color, width=2)
            x, y = place(np.array([self.times[position], values[name]]))
            if np.isfinite([x, y]).all():
                pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color, outline=(255, 255, 255))
            label = f"{name} {values[name]:.3f}"
            pen.text((column, 8), label, fill=color)
            column += pen.textlength(label) + 18
        return np.array(picture)

    def save(self, path: str | Path, *, seconds: float = 0.15, width: int = 480) -> None:
        """Write the film as an animated GIF, or as MP4 where ``imageio-ffmpeg`` is installed.

        Parameters
        ----------
        path
            Ends in ``.gif`` or ``.mp4``.
        seconds
            How long each picture is shown; the last stays ten times as long in a GIF.
        width
            See :meth:`film`.

        Raises
        ------
        InputError
            If the ending is another one, or MP4 cannot be written here.
        """
        import imageio.v3 as iio

        path = Path(path)
        if path.suffix.lower() not in SUPPORTED_SUFFIXES:
            raise InputError(f"A film is saved as {' or '.join(SUPPORTED_SUFFIXES)}, not as '{path.suffix}'.")
        if not seconds > 0:
            raise InputError(f"A picture is shown for a positive time, not for {seconds} seconds.")
        film = self.film(width)
        if path.suffix.lower() == ".gif":
            shown = [1000 * seconds] * (len(film) - 1) + [10_000 * seconds]
            iio.imwrite(path, film, extension=".gif", duration=shown, loop=0)
            return
        try:
            import imageio_ffmpeg  # noqa: F401 - imageio looks for it by itself, but says less clearly that it is missing
        except ImportError as error:
            raise InputError("MP4 needs the package imageio-ffmpeg; install it, or save a GIF.") from error
        iio.imwrite(path, film, extension=".mp4", fps=1 / seconds, macro_block_size=2)


def recorded(
    steps: Generator[Item, Any, Outcome],
    picture: Callable[[Item], npt.NDArray[Any] | None],
    time: Callable[[Item], float],
    values: Callable[[Item], Mapping[str, float]],
    kept: list[tuple[float, npt.NDArray[Any], dict[str, float]]],
) -> Generator[Item, Any, Outcome]:
    """Pass a generator's items on, and keep a picture of each that shows a new one; :func:`of_kept` makes the replay.

    Parameters
    ----------
    steps
        Any training or fit that yields its progress and takes ``send("stop")``.
    picture, time, values
        What to keep of an item; a picture of ``None`` keeps nothing.
    kept
        Filled on the way, so that a run that is stopped, or fails, leaves what there was.
    """
    told: Any = None
    try:
        item = next(steps)
        while True:
            shown, now = picture(item), time(item)
            if shown is not None and (not kept or now > kept[-1][0]):
                kept.append((now, np.array(shown), dict(values(item))))
            told = yield item
            item = steps.send(told) if told is not None else next(steps)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    finally:
        steps.close()


def of_kept(kept: list[tuple[float, npt.NDArray[Any], dict[str, float]]], name: str, unit: str = "step") -> Replay:
    """The replay of what :func:`recorded` kept."""
    if not kept:
        raise InputError("Nothing was recorded.")
    times = np.array([time for time, _, _ in kept])
    names = list(dict.fromkeys(key for _, _, values in kept for key in values))
    curves = {key: np.array([(time, values[key]) for time, _, values in kept if key in values]) for key in names}
    return Replay(np.stack([picture for _, picture, _ in kept]), times, curves, name, unit=unit)
