"""Text encoders for classification: BERT, RoBERTa, XLM-R, DeBERTa and their kin.

Why it exists: most of what hospitals know stands in notes.

Rules:
    * One record is one note: it is cut at `max_tokens`, never split, and never packed with another one.
    * A missing note is an empty one.

What it does not do: split long notes, or generate text.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from fedmed.models.architecture import Architecture
from fedmed.models.pretrained import attention_targets, head_names, load_pretrained, load_tokenizer
from fedmed.models.reading import ReadingModel
from fedmed.rows import row_texts


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer by its place, so that two readers of one folder are equal; it is loaded once per process."""

    folder: str
    max_tokens: int

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""
        return _tokenizer(self.folder)

    def of(self, texts: list[str], device: torch.device, *, longest: bool) -> dict[str, Tensor]:
        """Return ids and mask of texts, each shape `[texts, tokens]`.

        They are padded on the right to the longest, or to the most tokens.
        """
        found = self.tokenizer()(
            texts,
            truncation=True,
            max_length=self.max_tokens,
            padding="max_length" if longest else True,
            padding_side="right",
            return_tensors="pt",
        )
        return {name: found[name].to(device) for name in ("input_ids", "attention_mask")}


@lru_cache(maxsize=8)
def _tokenizer(folder: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer  # noqa: PLC0415  only where a text is read

    found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if found.pad_token is None:
        found.pad_token = found.eos_token or found.unk_token
    return found


@dataclass(frozen=True, slots=True)
class NoteReader:
    """Reads the text of a row for an encoder."""

    tokens: Tokens
    characters: int

    def inputs(self, rows: Tensor, *, salt: int | None, longest: bool) -> dict[str, Any]:  # noqa: ARG002  the protocol's
        """Return ids and mask."""
        return self.tokens.of(row_texts(rows[:, : self.characters].cpu().numpy()), rows.device, longest=longest)

    def outputs(self, found: Any, inputs: dict[str, Any]) -> Tensor:  # noqa: ARG002  the protocol's
        """Return the logits, shape `[records, classes]`."""
        return found.logits  # type: ignore[no-any-return]


def build(architecture: Architecture) -> ReadingModel:
    """Return the encoder of the architecture's folder with a head for its classes.

    Raises:
        ModelError: The folder can't be used.
    """
    folder = architecture.tower("text")
    model = load_pretrained(AutoModelForSequenceClassification, folder, num_labels=architecture.classes)
    tokenizer = load_tokenizer(folder, model)
    if tokenizer.pad_token_id is not None:
        model.config.pad_token_id = tokenizer.pad_token_id
    reader = NoteReader(tokens_of(folder, model, architecture), architecture.characters)
    return ReadingModel(
        model, reader, targets=attention_targets(model), heads=head_names(model), towers={"text": model}
    )


def tokens_of(folder: Path, model: PreTrainedModel, architecture: Architecture) -> Tokens:
    """Return the tokens of a folder, no more at a time than the model has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    room = architecture.max_tokens
    if isinstance(positions, int) and positions > 0:
        room = min(room, positions - _unused_positions(model, positions))
    return Tokens(str(folder), room)


def _unused_positions(model: PreTrainedModel, positions: int) -> int:
    """Return how many rows of the table of positions no token has: those up to its padding, where it has one."""
    tables = [
        layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Embedding) and "position" in name and layer.num_embeddings == positions
    ]
    return max((layer.padding_idx + 1 for layer in tables if layer.padding_idx is not None), default=0)
