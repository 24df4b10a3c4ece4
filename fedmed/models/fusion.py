"""Text, image and table together: towers whose tokens attend to those of the other modalities.

Why it exists: a finding may stand in neither the report nor the image alone.

Rules:
    * Towers are pretrained and frozen behind adapters; adapters also change the attention and the feed-forward layers
      between them. Projections and head are new and trained in full.
    * The head sees a summary of each modality and the product of each two, so that what two of them say together has a
      weight of its own from the first step on.
    * A record may lack any modality: its tokens are hidden from the others, and its summary is zero. With nothing but
      missing modalities a record has the outputs of the head's bias.
    * Each modality may always attend to nothing at all, so that the absence of the others is no special case.

What it does not do: generate, or align modalities beforehand.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, PreTrainedModel

from fedmed.models.architecture import Architecture
from fedmed.models.pretrained import attention_targets, load_pretrained, load_tokenizer
from fedmed.models.reading import ReadingModel
from fedmed.models.text import Tokens, tokens_of
from fedmed.models.vision import Pixels, pixels_of
from fedmed.rows import END, row_texts

HEADS = ("project_text", "project_image", "project_table", "head")
TARGETS = ("q_proj", "v_proj", "up", "down")


class FusionModel(nn.Module):
    """Cross-attention between the tokens of a text, an image and a table."""

    def __init__(self, text: PreTrainedModel, image: PreTrainedModel, architecture: Architecture) -> None:
        super().__init__()
        width = architecture.width
        self.text, self.image = text, image
        self.project_text = nn.Linear(int(text.config.hidden_size), width)
        self.project_image = nn.Linear(_image_width(image), width)
        self.project_table = nn.Linear(max(1, architecture.layout.features), width)
        self.blocks = nn.ModuleList(_Crossing(width, architecture.heads) for _ in range(architecture.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = nn.Linear(6 * width, architecture.classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, *, tokens: dict[str, Tensor], pixels: Tensor, table: Tensor, present: Tensor) -> Tensor:
        """Return logits, shape `[records, classes]`.

        Args:
            tokens: Ids and mask of the texts.
            pixels: Images as the tower takes them.
            table: Features, shape `[records, features]`; one column of zeros without a table.
            present: Whether a record has text, image and table, shape `[records, 3]`, 0 or 1.
        """
        text = self.project_text(self.text(**tokens).last_hidden_state)
        image = self.project_image(_flat(self.image(pixel_values=pixels).last_hidden_state))
        streams = [text, image, self.project_table(table)[:, None]]
        masks = [
            tokens["attention_mask"] * present[:, :1],
            present[:, 1:2].expand(-1, image.shape[1]),
            present[:, 2:3],
        ]
        for block in self.blocks:
            streams = block(streams, masks)
        pooled = [_pooled(self.norm(stream), mask) for stream, mask in zip(streams, masks, strict=True)]
        text_found, image_found, table_found = pooled
        pairs = [text_found * image_found, text_found * table_found, image_found * table_found]
        return self.head(torch.cat([*pooled, *pairs], dim=1))  # type: ignore[no-any-return]


class _Crossing(nn.Module):
    """Each modality attends to the tokens of the others, then to itself through a feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, streams: list[Tensor], masks: list[Tensor]) -> list[Tensor]:
        normed = [self.norm(stream) for stream in streams]
        found = []
        for place, stream in enumerate(streams):
            others = [other for other in range(len(streams)) if other != place]
            keys = torch.cat([normed[other] for other in others], dim=1)
            mask = torch.cat([masks[other] for other in others], dim=1)
            met = stream + self._attend(normed[place], keys, mask)
            found.append(met + self.down(functional.gelu(self.up(self.norm(met)))))
        return found

    def _attend(self, asking: Tensor, asked: Tensor, mask: Tensor) -> Tensor:
        query, key, value = self._split(self.q_proj(asking)), self._split(self.k_proj(asked)), self._split(
            self.v_proj(asked)
        )  # fmt: skip
        weights = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        weights = weights.masked_fill(mask[:, None, None, :] == 0, float("-inf"))
        weights = torch.cat([weights, torch.zeros_like(weights[..., :1])], dim=-1)  # nothing, always there
        weights = torch.softmax(weights, dim=-1)[..., :-1]
        return self.o_proj((weights @ value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, tokens: Tensor) -> Tensor:
        records, length, width = tokens.shape
        return tokens.view(records, length, self.heads, width // self.heads).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class FusionReader:
    """Reads all parts of a row."""

    tokens: Tokens
    pixels: Pixels
    characters: int
    features: int

    def inputs(self, rows: Tensor, *, salt: int | None, longest: bool) -> dict[str, Any]:
        """Return tokens, pixels, table and which of them a record has; a table of zeros alone counts as absent."""
        letters = rows[:, : self.characters]
        flag = rows[:, self.characters]
        table = rows[:, len(rows[0]) - self.features :] if self.features else torch.zeros_like(rows[:, :1])
        present = torch.stack([(letters != END).any(1), flag > 0, (table != 0).any(1)], dim=1)
        return {
            "tokens": self.tokens.of(row_texts(letters.cpu().numpy()), rows.device, longest=longest),
            "pixels": self.pixels.of(rows, salt=salt),
            "table": table,
            "present": present.to(rows.dtype),
        }

    def outputs(self, found: Any, inputs: dict[str, Any]) -> Tensor:  # noqa: ARG002  the protocol's
        """Return the logits, shape `[records, classes]`."""
        return found  # type: ignore[no-any-return]


def build(architecture: Architecture) -> ReadingModel:
    """Return the fusion of the architecture's two towers.

    Raises:
        ModelError: A folder can't be used.
    """
    text_folder, image_folder = architecture.tower("text"), architecture.tower("image")
    text = load_pretrained(AutoModel, text_folder)
    image = load_pretrained(AutoModel, image_folder)
    load_tokenizer(text_folder, text)
    reader = FusionReader(
        tokens=tokens_of(text_folder, text, architecture),
        pixels=pixels_of(image_folder, image, architecture),
        characters=architecture.characters,
        features=architecture.layout.features,
    )
    targets = (*attention_targets(text), *attention_targets(image), *TARGETS)
    return ReadingModel(
        FusionModel(text, image, architecture),
        reader,
        targets=tuple(dict.fromkeys(targets)),
        heads=HEADS,
        towers={"text": text, "image": image},
    )


def _pooled(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the tokens that are there, shape `[records, width]`; zero where there are none."""
    weights = mask.to(tokens.dtype)[:, :, None]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


def _flat(hidden: Tensor) -> Tensor:
    """Return the tokens of an image: those of a transformer, or the places of a feature map."""
    return hidden if hidden.ndim == 3 else hidden.flatten(2).transpose(1, 2)


def _image_width(image: PreTrainedModel) -> int:
    sizes = getattr(image.config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else image.config.hidden_size)
