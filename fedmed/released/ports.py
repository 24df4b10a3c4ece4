"""What a model takes and gives outside FedMed: named inputs and outputs with named axes, family by family.

Why it exists: FedMed's modules read rows, with the tokenizer inside. Elsewhere a tokenizer and an image library stand
before the model, so a graph starts behind them.

Rules:
    * Reading stays outside: hashing of n-grams, tokenizers, the scaling of images. Facts beside the model say how.
    * Positions of a causal model are counted from its mask, so that padding may stand on either side.
    * Samples for comparison are drawn from a fixed seed: random values, nobody's.

What it does not do: write files, or know ONNX.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedmed.models import Architecture, scores
from fedmed.models.fusion import FusionReader
from fedmed.models.language import AnswerReader, ChoiceReader
from fedmed.models.ngrams import BUCKETS_OF_WIDTH
from fedmed.models.reading import ReadingModel
from fedmed.models.survival import Hazards
from fedmed.models.text import NoteReader
from fedmed.models.vision import ImageReader, Pixels

Kind = Literal["values", "tokens", "mask", "flags"]
_LONGEST = 24
"""Tokens of the longest sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input or output: its axes by length, or by name where any length is taken."""

    name: str
    kind: Kind
    axes: tuple[int | str, ...]
    meaning: str

    @property
    def dtype(self) -> torch.dtype:
        """What its values are."""
        return torch.int64 if self.kind in {"tokens", "mask"} else torch.float32


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """A plain computation from tensors to tensors, and what they are."""

    core: nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    vocabulary: int = 0
    longest: int = 0
    """Most tokens that the model takes."""

    def samples(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield inputs of several lengths, every time the same ones; the first is the largest."""
        generator = torch.Generator().manual_seed(20)
        most = min(self.longest, _LONGEST)
        for records, tokens in ((3, most), (1, 1), (2, min(7, most)), (5, most)):
            lengths = {"records": records, "tokens": tokens}
            yield tuple(self._drawn(port, lengths, generator) for port in self.inputs)

    def compute(self, sample: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the outputs for one sample."""
        with torch.no_grad():
            found: tuple[Tensor, ...] = self.core(*sample)
        return found

    def compared(self, sample: tuple[Tensor, ...], output: Port) -> Tensor:
        """Return which places of an output mean something, as a mask that broadcasts over it.

        Where a token is padding, what a model says of it is left open.
        """
        if "tokens" not in output.axes:
            return torch.ones(1, dtype=torch.bool)
        (mask,) = (value for port, value in zip(self.inputs, sample, strict=True) if port.kind == "mask")
        return mask.bool()

    def _drawn(self, port: Port, lengths: dict[str, int], generator: torch.Generator) -> Tensor:
        shape = [lengths[axis] if isinstance(axis, str) else axis for axis in port.axes]
        if port.kind == "tokens":
            return torch.randint(self.vocabulary, shape, generator=generator)
        if port.kind == "flags":
            return torch.randint(2, shape, generator=generator).to(port.dtype)
        if port.kind == "mask":
            drawn = torch.ones(shape, dtype=port.dtype)
            drawn[-1, (shape[1] + 1) // 2 :] = 0  # the last record is half as long
            return drawn
        return torch.randn(shape, generator=generator)


def ports_of(architecture: Architecture, module: nn.Module) -> Ports:
    """Return the inputs and outputs of a released module.

    Args:
        architecture: Of its base.
        module: From `Released.load`, with its adapter or merged.
    """
    family = architecture.family
    if family == "text-encoder":
        return _encoder(architecture, _reading(module))
    if family == "causal-lm":
        return _causal(architecture, _reading(module))
    if family == "image-encoder":
        return _image(architecture, _reading(module))
    if family == "fusion":
        return _fusion(architecture, _reading(module))
    if family == "survival":
        return _survival(architecture, module)
    return _small(architecture, module)


class _Classifier(nn.Module):
    """A module of one input that gives logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.inner(features)
        return logits, scores(logits)


class _Survival(nn.Module):
    """The hazard of each span, and the curve that they mean."""

    def __init__(self, inner: Hazards) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.inner.hazards(features)
        return logits, torch.cumsum(functional.logsigmoid(-logits), dim=1).exp()


class _Encoder(nn.Module):
    """A text encoder without its tokenizer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.inner(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits, scores(logits)


class _Causal(nn.Module):
    """A causal model without its tokenizer; with answers, also the chance of each of them after the last token."""

    def __init__(self, inner: nn.Module, answers: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.answers = inner, answers

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
        logits = self.inner(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
        ).logits
        if not self.answers:
            return (logits,)
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        last = (places * attention_mask).amax(1)
        chosen = logits.gather(1, last[:, None, None].expand(-1, 1, logits.shape[2]))[:, 0, list(self.answers)]
        return logits, torch.softmax(chosen, dim=1)


class _Image(nn.Module):
    """An image encoder behind the scaling of images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.inner(pixel_values=pixel_values).logits
        return logits, scores(logits)


class _Fusion(nn.Module):
    """A fusion behind tokenizer and scaling of images."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor, table: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        tokens = {"input_ids": input_ids, "attention_mask": attention_mask}
        logits = self.inner(tokens=tokens, pixels=pixel_values, table=table, present=present)
        return logits, scores(logits)


_TABLE = "the table's features, as `preprocessing` says"
_IDS = Port(name="input_ids", kind="tokens", axes=("records", "tokens"), meaning="the tokenizer's ids")
_MASK = Port(name="attention_mask", kind="mask", axes=("records", "tokens"), meaning="1 for a token, 0 for padding")


def _pixels(pixels: Pixels) -> Port:
    side = pixels.model_size
    return Port(
        name="pixel_values", kind="values", axes=("records", pixels.model_channels, side, side),
        meaning="images, as `preprocessing` says",
    )  # fmt: skip


def _classes(architecture: Architecture) -> tuple[Port, Port]:
    meaning = "of each class" if architecture.outputs > 1 else "log-odds of the second class"
    return (
        Port(name="logits", kind="values", axes=("records", architecture.outputs), meaning=meaning),
        Port(name="probabilities", kind="values", axes=("records", architecture.classes), meaning="of each class"),
    )


def _small(architecture: Architecture, module: nn.Module) -> Ports:
    if architecture.family == "ngrams":
        width = BUCKETS_OF_WIDTH * architecture.width + architecture.layout.features
        read = Port(
            name="features", kind="values", axes=("records", width),
            meaning="hashed n-grams, then the table's features, as `preprocessing` says",
        )  # fmt: skip
        core = _Classifier(module.get_submodule("head"))
    else:
        read = Port(name="features", kind="values", axes=("records", architecture.features), meaning=_TABLE)
        core = _Classifier(module)
    return Ports(core=core.eval(), inputs=(read,), outputs=_classes(architecture))


def _survival(architecture: Architecture, module: nn.Module) -> Ports:
    assert isinstance(module, Hazards)  # noqa: S101  what `build` made of the family
    spans = architecture.classes // 2
    return Ports(
        core=_Survival(module).eval(),
        inputs=(Port(name="features", kind="values", axes=("records", architecture.features), meaning=_TABLE),),
        outputs=(
            Port(
                name="logits", kind="values", axes=("records", spans),
                meaning="log-odds of the event in each span, of those who reached it",
            ),
            Port(
                name="survival", kind="values", axes=("records", spans),
                meaning="the chance of no event by the end of each span",
            ),
        ),
    )  # fmt: skip


def _encoder(architecture: Architecture, module: ReadingModel) -> Ports:
    assert isinstance(module.reader, NoteReader)  # noqa: S101  what `build` made of the family
    return Ports(
        core=_Encoder(module.inner).eval(),
        inputs=(_IDS, _MASK),
        outputs=_classes(architecture),
        vocabulary=_vocabulary(module),
        longest=module.reader.tokens.max_tokens,
    )


def _causal(architecture: Architecture, module: ReadingModel) -> Ports:
    vocabulary = _vocabulary(module)
    outputs = [
        Port(
            name="logits", kind="values", axes=("records", "tokens", vocabulary),
            meaning="of the token after each one",
        )
    ]  # fmt: skip
    assert isinstance(module.reader, ChoiceReader | AnswerReader)  # noqa: S101  what `build` made of the family
    answers: tuple[int, ...] = ()
    if isinstance(module.reader, ChoiceReader):
        answers = module.reader.answers
        outputs += [_classes(architecture)[1]]
    return Ports(
        core=_Causal(module.inner, answers).eval(),
        inputs=(_IDS, _MASK),
        outputs=tuple(outputs),
        vocabulary=vocabulary,
        longest=module.reader.tokens.max_tokens,
    )


def _image(architecture: Architecture, module: ReadingModel) -> Ports:
    assert isinstance(module.reader, ImageReader)  # noqa: S101  what `build` made of the family
    return Ports(
        core=_Image(module.inner).eval(),
        inputs=(_pixels(module.reader.pixels),),
        outputs=_classes(architecture),
    )


def _fusion(architecture: Architecture, module: ReadingModel) -> Ports:
    reader = module.reader
    assert isinstance(reader, FusionReader)  # noqa: S101  what `build` made of the family
    return Ports(
        core=_Fusion(module.inner).eval(),
        inputs=(
            _IDS,
            _MASK,
            _pixels(reader.pixels),
            Port(
                name="table", kind="values", axes=("records", max(1, reader.features)),
                meaning=f"{_TABLE}; zeros for a record without one",
            ),
            Port(
                name="present", kind="flags", axes=("records", 3),
                meaning="1 where a record has a text, an image, a table, else 0",
            ),
        ),
        outputs=_classes(architecture),
        vocabulary=_vocabulary(module),
        longest=reader.tokens.max_tokens,
    )  # fmt: skip


def _reading(module: nn.Module) -> ReadingModel:
    assert isinstance(module, ReadingModel)  # noqa: S101  what `build` makes of a pretrained family
    return module


def _vocabulary(module: ReadingModel) -> int:
    embeddings: Any = module.tower("text").get_input_embeddings()
    return int(embeddings.num_embeddings)
