"""What stands before a model outside FedMed, as facts for whoever writes it again.

Why it exists: a graph takes features, tokens and pixels; how a hospital's record becomes them is half of the model.

Rules:
    * Everything is public: the plan, the base and, where it is given, the data set's schema, whose digest must be the
      plan's.
    * Without the schema there are no names of classes and features; they are said to be missing, not made up.

What it does not do: read a record.
"""

from typing import Any, TypeAlias

from torch import nn

from fedmed.data.schema import Column, Schema
from fedmed.data.tabular import feature_names
from fedmed.errors import UsageError
from fedmed.models.fusion import FusionReader
from fedmed.models.language import AnswerReader, ChoiceReader
from fedmed.models.ngrams import BUCKETS_OF_WIDTH
from fedmed.models.reading import ReadingModel
from fedmed.models.text import NoteReader
from fedmed.models.vision import Pixels
from fedmed.records import Plan
from fedmed.released.folder import Released

Facts: TypeAlias = dict[str, Any]
"""What becomes JSON."""


def refuse_other_schema(plan: Plan, schema: Schema) -> None:
    """Raise unless `schema` is the one that the plan names.

    Raises:
        UsageError: It is another one.
    """
    if schema.digest != plan.data.schema_digest:
        raise UsageError(
            f"--data: expected the schema {plan.data.schema} with digest {plan.data.schema_digest[:12]}, got"
            f" {schema.name} with {schema.digest[:12]}; give the data set's YAML as it was when the study was planned"
        )


def class_names(released: Released, schema: Schema | None) -> tuple[str, ...] | None:
    """Return the names of the classes in the order of the outputs, or None where nothing here knows them."""
    if schema is not None:
        return schema.target(released.plan.data.target).classes
    return released.plan.model.answers or None


def preprocessing(released: Released, module: nn.Module, schema: Schema | None) -> Facts:
    """Return how a record becomes the model's inputs.

    Args:
        released: Whose model it is.
        module: From `Released.load`.
        schema: Of the data set, checked; None if it is not at hand.
    """
    architecture = released.architecture
    found: Facts = {}
    reader = module.reader if isinstance(module, ReadingModel) else None
    if architecture.family == "ngrams":
        found["text"] = {
            "characters": architecture.characters,
            "buckets": BUCKETS_OF_WIDTH * architecture.width,
            "hashing": "fedmed.models.ngrams.hashed of fedmed.rows.text_rows: it is not part of the graph",
        }
    elif architecture.characters:
        found["text"] = _text(released, reader)
    pixels = getattr(reader, "pixels", None)
    if isinstance(pixels, Pixels):
        found["image"] = _image(pixels, schema)
    if architecture.layout.features:
        found["table"] = _table(released, schema)
    return found


def _text(released: Released, reader: object) -> Facts:
    architecture = released.architecture
    assert isinstance(reader, NoteReader | ChoiceReader | AnswerReader | FusionReader)  # noqa: S101  they read texts
    causal = architecture.family == "causal-lm"
    found: Facts = {
        "characters": architecture.characters,
        "max_tokens": reader.tokens.max_tokens,
        "tokenizer": "the files beside the model; transformers.AutoTokenizer",
        "missing": "an empty text",
    }
    if causal:
        found["chat_template"] = (
            "the tokenizer's; without one, turns as role: content; turns that it refuses as"
            " fedmed.models.language.alternating tells them"
        )
        found["cut"] = "a question's text at its end, a conversation at its beginning, never in its answer"
    if architecture.answers:
        found["prompt"] = architecture.prompt
    if isinstance(reader, ChoiceReader):
        pairs = zip(architecture.answers, reader.answers, strict=True)
        found["answers"] = [{"text": text, "first_token": token} for text, token in pairs]
    return found


def _image(pixels: Pixels, schema: Schema | None) -> Facts:
    found: Facts = {
        "steps": "a file to a square of `data_size` with values in [0, 1]; scaled to `size` (bilinear, antialiased);"
        " one channel repeated; (value - mean) / deviation",
        "data_size": pixels.size,
        "data_channels": pixels.channels,
        "size": pixels.model_size,
        "channels": pixels.model_channels,
        "mean": list(pixels.mean),
        "deviation": list(pixels.deviation),
    }
    if schema is not None and schema.image is not None:
        image = schema.image
        found["window"] = None if image.centre is None else {"centre": image.centre, "width": image.width}
        found["spacing_mm"] = image.spacing_mm
    return found


def _table(released: Released, schema: Schema | None) -> Facts:
    found: Facts = {
        "features": released.architecture.layout.features,
        "normalisation": released.plan.data.normalisation,
        "missing": 0,
    }
    if released.plan.data.normalisation != "public":
        found["statistics"] = "then mean and deviation of each feature, which are no part of a result: sites keep them"
    if schema is not None:
        found["names"] = list(feature_names(schema))
        found["clip"] = schema.clip
        found["columns"] = [_column(column, schema) for column in schema.columns if column.is_feature]
    return found


def _column(column: Column, schema: Schema) -> Facts:
    if column.kind == "number":
        return {
            "name": column.name, "unit": column.unit, "centre": column.centre, "scale": column.scale,
            "rule": "(value - centre) / scale, clipped to plus or minus clip",
        }  # fmt: skip
    if column.kind == "binary":
        return {"name": column.name, "values": list(column.values), "rule": "-1 for the first value, 1 for the second"}
    shown = column.values[1:] if schema.drop_first else column.values
    return {"name": column.name, "values": list(shown), "rule": "for each value 1 where it is the one, else -1"}
