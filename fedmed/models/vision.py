"""Image classifiers: vision transformers and residual networks of transformers.

Why it exists: radiology, dermatology and pathology send images.

Rules:
    * An image comes as values in [-1, 1] (see `fedmed.rows`); it is scaled to the model's size, a single channel is
      repeated, and values are normalised as the folder's `preprocessor_config.json` says.
    * Batch normalisation is frozen, in training too: it would mix records. Only adapters and the head are trained.
    * Augmentation is a function of the record and the model alone: one record stays one record, whoever else is in the
      batch, and two runs of one seed see the same views.

What it does not do: read files (see `fedmed.data.imaging`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForImageClassification, PreTrainedModel

from fedmed.errors import ModelError
from fedmed.model_spec import Augmentation
from fedmed.models.architecture import Architecture
from fedmed.models.pretrained import attention_targets, head_names, load_pretrained
from fedmed.models.reading import ReadingModel

PROCESSOR = "preprocessor_config.json"
_SHIFT = 8
"""An image is moved by at most an eighth of its side."""
_NEUTRAL = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Processor:
    """What is read of `preprocessor_config.json`."""

    image_mean: tuple[float, ...] | None = None
    image_std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Pixels:
    """Reads the image of a row; what precedes it in the row is skipped."""

    start: int
    channels: int
    size: int
    model_size: int
    model_channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    augmentation: Augmentation

    def of(self, rows: Tensor, *, salt: int | None) -> Tensor:
        """Return images as the model takes them, shape `[records, channels, size, size]`."""
        flat = rows[:, self.start + 1 : self.start + 1 + self.channels * self.size**2]
        images = flat.reshape(len(rows), self.channels, self.size, self.size)
        if salt is not None and self.augmentation == "flip-shift":
            images = flipped_and_shifted(images, salt=salt)
        if self.size != self.model_size:
            images = functional.interpolate(
                images, size=(self.model_size, self.model_size), mode="bilinear", antialias=True
            )
        if self.channels != self.model_channels:
            images = images.mean(1, keepdim=True).expand(-1, self.model_channels, -1, -1)
        mean, deviation = (rows.new_tensor(values)[None, :, None, None] for values in (self.mean, self.deviation))
        return ((images + 1) / 2 - mean) / deviation


@dataclass(frozen=True, slots=True)
class ImageReader:
    """Reads the image of a row for a classifier."""

    pixels: Pixels

    def inputs(self, rows: Tensor, *, salt: int | None, longest: bool) -> dict[str, Any]:  # noqa: ARG002  the protocol's
        """Return the images."""
        return {"pixel_values": self.pixels.of(rows, salt=salt)}

    def outputs(self, found: Any, inputs: dict[str, Any]) -> Tensor:  # noqa: ARG002  the protocol's
        """Return the logits, shape `[records, classes]`."""
        return found.logits  # type: ignore[no-any-return]


def build(architecture: Architecture) -> ReadingModel:
    """Return the classifier of the architecture's folder with a head for its classes.

    Raises:
        ModelError: The folder can't be used.
    """
    folder = architecture.tower("image")
    model = load_pretrained(AutoModelForImageClassification, folder, num_labels=architecture.classes)
    reader = ImageReader(pixels_of(folder, model, architecture))
    return ReadingModel(
        model, reader, targets=attention_targets(model), heads=head_names(model), towers={"image": model}
    )


def pixels_of(folder: Path, model: PreTrainedModel, architecture: Architecture) -> Pixels:
    """Return how the model in `folder` wants the images of the architecture's rows."""
    channels = int(getattr(model.config, "num_channels", 3))
    size = getattr(model.config, "image_size", None)
    size = size[0] if isinstance(size, list | tuple) else size
    mean, deviation = _normalisation(folder, channels)
    return Pixels(
        start=architecture.characters,
        channels=architecture.channels,
        size=architecture.image_size,
        model_size=architecture.image_size if size is None else int(size),
        model_channels=channels,
        mean=mean,
        deviation=deviation,
        augmentation=architecture.augmentation,
    )


def flipped_and_shifted(images: Tensor, *, salt: int) -> Tensor:
    """Return each image mirrored or not and moved a little, as its own values and `salt` decide.

    A draw from a common generator would give a record another view when somebody before it in the batch is left out;
    the sensitivity of a sum of clipped gradients would then not be one record's.

    Args:
        images: Shape `[records, channels, size, size]`.
        salt: Of the model's state, so that the next step sees another view.
    """
    with torch.no_grad():
        draws = _own_draws(images, salt)
        size = images.shape[-1]
        reach = max(1, size // _SHIFT)
        place = torch.arange(size, device=images.device)
        across = place[None] + ((draws >> 8) % (2 * reach + 1))[:, None] - reach
        down = place[None] + ((draws >> 24) % (2 * reach + 1))[:, None] - reach
        across = torch.where((draws % 2 == 1)[:, None], size - 1 - across, across)
        inside = ((across >= 0) & (across < size))[:, None, None, :] & ((down >= 0) & (down < size))[:, None, :, None]
        across, down = across.clamp(0, size - 1), down.clamp(0, size - 1)
        picked = images.gather(2, down[:, None, :, None].expand_as(images))
        picked = picked.gather(3, across[:, None, None, :].expand_as(images))
        return torch.where(inside, picked, images.new_tensor(-1.0))


def _own_draws(images: Tensor, salt: int) -> Tensor:
    """Return a number from each image's own values, shape `[records]`; whole numbers, so that batches don't matter."""
    values = (images.flatten(1) * 4096).round().long()
    weights = torch.arange(1, values.shape[1] + 1, device=images.device) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    keys = (values * weights).sum(1) + salt * 0x2545F4914F6CDD1D % (1 << 62)
    keys = (keys ^ (keys >> 29)) * 0x3C79AC492BA7B653
    return (keys ^ (keys >> 32)) & 0x7FFFFFFFFFFF


def _normalisation(folder: Path, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation for values in [0, 1]; 0.5 each where the folder says nothing.

    Raises:
        ModelError: What it says is not a number for each of the channels, or a deviation is not above 0.
    """
    path = folder / PROCESSOR
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Processor) if path.is_file() else _Processor()
    except (OSError, msgspec.MsgspecError):
        raise ModelError(f"{folder}: expected lists of numbers in {PROCESSOR}, got none; copy it again") from None
    mean, deviation = found.image_mean or _NEUTRAL, found.image_std or _NEUTRAL
    if len(mean) != len(deviation) or min(deviation) <= 0:
        raise ModelError(
            f"{folder}: expected as many image_std above 0 in {PROCESSOR} as image_mean, got others; copy it again"
        )
    if len(mean) == 1:
        return mean * channels, deviation * channels
    return (mean, deviation) if len(mean) == channels else (_NEUTRAL[:1] * channels, _NEUTRAL[:1] * channels)
