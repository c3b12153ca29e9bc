"""Replay of a training: one image per epoch and the curves, as a time layer, GIF or video."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
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
ReturnType = TypeVar("ReturnType")
SUPPORTED_SUFFIXES = (".gif", ".mp4")
CURVE_LABELS = {"plain": "without a transformer", "transformer": "with a transformer"}
"""Names of the classifiers in a film."""
_COLORS = ((46, 196, 243), (255, 159, 28), (232, 63, 111), (123, 211, 137))
MIN_WIDTH_PX = 320
"""Least width of a film, so that small images are visible on a slide."""
_BACKGROUND, _TEXT = (24, 26, 32), (235, 235, 235)
_TITLE_HEIGHT, _GAP = 18, 4


@dataclass(frozen=True, eq=False)
class Replay:
    """Images of a training and its curves.

    Parameters
    ----------
    frames
        ``(T, y, x)`` or ``(T, z, y, x)``; uint8 ``(T, y, x, 3)`` is color.
    times
        Epoch (or step) of each image ``(T,)``, increasing.
    curves
        Curves by name, ``(N, 2)``: epoch and value.
    name
        Name of the training.
    grid
        Grid of the images; ``None`` for unit pixels.
    unit
        Unit of the times.
    kept
        Time whose weights the model has; ``None`` if that is not known.
    fixed
        Still image with the shape of one frame, which a film shows beside the frames: the fixed image of a
        registration, or the distorted digits.
    titles
        Titles of the still image and of the frames in a film.
    stacked
        Whether the still image is above the frames instead of to their left.

    Raises
    ------
    InputError
        If there are no images, not one time for each, or a fixed image of another shape.
    """

    frames: npt.NDArray[Any]
    times: FloatArray
    curves: Mapping[str, FloatArray]
    name: str = "training"
    grid: Grid | None = None
    unit: str = "epoch"
    kept: float | None = None
    fixed: npt.NDArray[Any] | None = None
    titles: tuple[str, str] = ("fixed", "moving, warped")
    stacked: bool = False

    def __post_init__(self) -> None:
        if self.frames.ndim not in (3, 4) or not len(self.frames):
            raise InputError("A replay needs at least one 2D or 3D image. This training kept no images.")
        if len(self.times) != len(self.frames):
            raise InputError(f"There are {len(self.frames)} images and {len(self.times)} times.")
        if self.fixed is not None and self.fixed.shape != self.frames.shape[1:]:
            raise InputError(f"The fixed image has the shape {self.fixed.shape}, the others {self.frames.shape[1:]}.")

    @property
    def last(self) -> int:
        """Position of the image of the kept weights, or else of the last image."""
        matching = [] if self.kept is None else np.flatnonzero(self.times == self.kept).tolist()
        return int(matching[-1]) if matching else len(self.times) - 1

    @property
    def color(self) -> bool:
        """Whether the images are RGB."""
        return self.frames.ndim == 4 and self.frames.shape[-1] == 3 and self.frames.dtype == np.uint8

    @classmethod
    def from_model(cls, model: Model, grid: Grid | None = None) -> Replay:
        """Build a replay from a model that was just trained. For a model from a file, see :meth:`from_checkpoint`.

        Parameters
        ----------
        model
            The model, with the images of its training.
        grid
            Grid of the images; ``None`` for unit pixels.

        Raises
        ------
        InputError
            If it has no images.
        """
        if model.replay is None or not len(model.replay):
            raise InputError(
                f"'{model.name}' has no images of its training, since it was loaded from a file or trained with 0 "
                "snapshots. Use Replay.from_checkpoint with the file NAME.checkpoint.safetensors beside the model."
            )
        epochs = [int(epoch) for epoch in model.summary["replay_epochs"]]
        curves = [(one["epoch"], one["loss"], one["validation_loss"]) for one in model.summary.get("curve", [])]
        kept = (model.summary.get("best") or {}).get("epoch")
        return cls._of_training(model.name or "training", model.replay, epochs, curves, kept, model.replay_fixed, grid)

    @classmethod
    def from_checkpoint(cls, path: str | Path, grid: Grid | None = None) -> Replay:
        """Build a replay from the checkpoint of a training, which is saved beside its model.

        Parameters
        ----------
        path
            The checkpoint, or the model beside which it is.
        grid
            Grid of the images; ``None`` for unit pixels.

        Raises
        ------
        InputError
            If the file is not a checkpoint, or the training kept no images.
        """
        from napari_stnreg.training.checkpoint import checkpoint_path, read_progress

        path = Path(path)
        name = path.name.removesuffix(".safetensors").removesuffix(".checkpoint")
        if not path.name.endswith(".checkpoint.safetensors"):
            path = checkpoint_path(path)
        state = read_progress(path)
        if not state.replay:
            raise InputError(f"'{path.name}' has no images, since the training was run with 0 snapshots.")
        curves = [(one.epoch, one.loss, one.validation_loss) for one in state.curve]
        images = np.stack(state.replay)
        fixed = state.replay_fixed
        return cls._of_training(name, images, state.replay_epochs, curves, state.best_epoch, fixed, grid)

    @classmethod
    def _of_training(
        cls,
        name: str,
        images: npt.NDArray[Any],
        epochs: Sequence[int],
        records: Sequence[tuple[int, float | None, float | None]],
        kept: float | None,
        fixed: npt.NDArray[Any] | None,
        grid: Grid | None,
    ) -> Replay:
        """Build a replay from images, their epochs, and records of epoch, training loss and validation loss."""
        curves: dict[str, list[tuple[float, float]]] = {}
        for epoch, loss, validation in records:
            for key, value in (("loss", loss), ("validation", validation)):
                if value is not None:
                    curves.setdefault(key, []).append((epoch, value))
        found = {key: np.array(points) for key, points in curves.items()}
        if fixed is not None and fixed.shape != images.shape[1:]:
            fixed = None
        return cls(images, np.asarray(epochs, dtype=np.float64), found, name, grid, kept=kept, fixed=fixed)

    @classmethod
    def from_classifiers(cls, result: ClassifierResult) -> Replay:
        """Build a replay of the transformed digits in a row below the distorted ones, with both accuracies."""
        side = result.progress[0].pictures.shape[-1]
        pad = side - result.frames().shape[-1]
        # The same scale for both rows: the transformer's output is smaller.
        frames = np.pad(result.frames(), ((0, 0), (0, 0), *[(pad // 2, pad - pad // 2)] * 2))
        steps = np.array([item.step for item in result.progress], dtype=np.float64)
        curves = {
            label: np.column_stack([steps, [item.accuracy[name] for item in result.progress]])
            for name, label in CURVE_LABELS.items()
        }
        rows = [np.concatenate(list(row), axis=1) for row in (result.progress[0].pictures, *frames)]
        return cls(
            np.stack(rows[1:]), steps, curves, "what the classifier sees", unit="step", fixed=rows[0],
            titles=("distorted digits", "what the transformer passes on"), stacked=True,
        )  # fmt: skip

    @classmethod
    def from_frames(cls, frames: list[RecordedFrame], name: str, unit: str = "step") -> Replay:
        """Build a replay from the frames of :func:`record_frames`.

        Raises
        ------
        InputError
            If there are none.
        """
        if not frames:
            raise InputError("Nothing was recorded.")
        times = np.array([time for time, _, _ in frames])
        names = list(dict.fromkeys(key for _, _, values in frames for key in values))
        curves = {key: np.array([(time, values[key]) for time, _, values in frames if key in values]) for key in names}
        return cls(np.stack([image for _, image, _ in frames]), times, curves, name, unit=unit)

    def at(self, position: int) -> dict[str, float]:
        """Return the value of each curve at one image, by linear interpolation."""
        time = self.times[position]
        return {name: float(np.interp(time, points[:, 0], points[:, 1])) for name, points in self.curves.items()}

    def layer(self, time_unit: str = "pixel") -> LayerData:
        """Return a time layer ``(T, ...)`` for napari's slider.

        Parameters
        ----------
        time_unit
            Unit of the first axis, which counts images. It must agree with the viewer's other layers.
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

    # -- film

    def render(self, width: int = 480) -> npt.NDArray[np.uint8]:
        """Render images above the curves with a marker, ``(T, y, x, 3)``; of volumes, the middle slice.

        A still image is shown beside the frames.

        Parameters
        ----------
        width
            Approximate width in pixels; images are enlarged by a whole factor.
        """
        images = [self.frames] if self.fixed is None else [self.fixed[None], self.frames]
        images = images if self.color else [_gray(image) for image in images]
        columns = 1 if self.stacked else len(images)
        factor = max(round(max(width, MIN_WIDTH_PX) / (columns * images[0].shape[2])), 1)
        shown = [image.repeat(factor, axis=1).repeat(factor, axis=2) for image in images]
        if len(shown) > 1:
            shown = [_titled(image, title) for image, title in zip(shown, self.titles, strict=True)]
            shown[0] = np.broadcast_to(shown[0], shown[1].shape)
            gap = np.full((*shown[0].shape[:2], _GAP, 3), _BACKGROUND, dtype=np.uint8)
            shown = [
                np.concatenate(shown, axis=1) if self.stacked else np.concatenate([shown[0], gap, shown[1]], axis=2)
            ]
        pictures = shown[0]
        strips = [self._strip(t, pictures.shape[2]) for t in range(len(pictures))]
        film = np.concatenate([pictures, np.array(strips)], axis=1)
        # Video formats need even sides.
        return film[:, : film.shape[1] // 2 * 2, : film.shape[2] // 2 * 2]

    def _strip(self, position: int, width: int) -> npt.NDArray[np.uint8]:
        from PIL import Image, ImageDraw  # imageio brings it

        height = 120
        picture = Image.new("RGB", (width, height), _BACKGROUND)
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
        pen.text((column, 8), label, fill=_TEXT)
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
        """Save the film as an animated GIF, or as MP4 if ``imageio-ffmpeg`` is installed.

        Parameters
        ----------
        path
            Ends in ``.gif`` or ``.mp4``.
        seconds
            Duration of each image; the last is shown ten times as long in a GIF.
        width
            See :meth:`render`.

        Raises
        ------
        InputError
            If the suffix is not supported, or MP4 cannot be written.
        """
        import imageio.v3 as iio

        path = Path(path)
        if path.suffix.lower() not in SUPPORTED_SUFFIXES:
            raise InputError(f"A film is saved as {' or '.join(SUPPORTED_SUFFIXES)}, not as '{path.suffix}'.")
        if not seconds > 0:
            raise InputError(f"The duration of an image must be positive, not {seconds} seconds.")
        film = self.render(width)
        if path.suffix.lower() == ".gif":
            shown = [1000 * seconds] * (len(film) - 1) + [10_000 * seconds]
            iio.imwrite(path, film, extension=".gif", duration=shown, loop=0)
            return
        try:
            import imageio_ffmpeg  # noqa: F401 - imageio would import it, but with a less clear error
        except ImportError as error:
            raise InputError("MP4 needs the package imageio-ffmpeg. Install it, or save a GIF.") from error
        iio.imwrite(path, film, extension=".mp4", fps=1 / seconds, macro_block_size=2)


def _gray(images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return gray levels ``(T, y, x, 3)`` of images; of volumes, the middle slice."""
    values = np.asarray(images if images.ndim == 3 else images[:, images.shape[1] // 2], dtype=np.float32)
    low, high = limits_of(values)
    gray = np.clip((values - low) / max(high - low, 1e-12) * 255, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=3)


def _titled(images: npt.NDArray[np.uint8], title: str) -> npt.NDArray[np.uint8]:
    """Return images ``(T, y, x, 3)`` below a bar with a title."""
    from PIL import Image, ImageDraw  # imageio brings it

    picture = Image.new("RGB", (images.shape[2], _TITLE_HEIGHT), _BACKGROUND)
    ImageDraw.Draw(picture).text((4, 3), title, fill=_TEXT)
    bar = np.broadcast_to(np.array(picture), (len(images), _TITLE_HEIGHT, *images.shape[2:]))
    return np.concatenate([bar, images], axis=1)


RecordedFrame = tuple[float, npt.NDArray[Any], dict[str, float]]
"""Time, image and values of one recorded frame."""


def record_frames(
    steps: Generator[Item, Any, ReturnType],
    image: Callable[[Item], npt.NDArray[Any] | None],
    time: Callable[[Item], float],
    values: Callable[[Item], Mapping[str, float]],
    frames: list[RecordedFrame],
) -> Generator[Item, Any, ReturnType]:
    """Pass a generator's items through and record a frame of each with a later time.

    Parameters
    ----------
    steps
        Any training or fit that yields its progress and accepts ``send("stop")``.
    image, time, values
        Image, time and values of an item; an image of ``None`` records nothing.
    frames
        Filled during iteration, so that a run that stops or fails keeps its frames; see :meth:`Replay.from_frames`.
    """
    try:
        item = next(steps)
        while True:
            shown, now = image(item), time(item)
            if shown is not None and (not frames or now > frames[-1][0]):
                frames.append((now, np.array(shown), dict(values(item))))
            command = yield item
            item = steps.send(command) if command is not None else next(steps)
    except StopIteration as end:
        result: ReturnType = end.value
        return result
    finally:
        steps.close()
