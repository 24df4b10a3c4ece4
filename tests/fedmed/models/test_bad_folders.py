"""Model folders that somebody spoilt: each is refused in one line, before anything is trained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from model_folders import SIZE, bytes_of, write_text_folder
from safetensors.torch import load_file, save_file

from fedmed.errors import ModelError
from fedmed.models import Architecture, build_module, require_readable
from fedmed.records import ModelSpec

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
CHARACTERS = 120


def read_from(folder: Path, family: str, **changes: Any) -> torch.nn.Module:
    """Build the model of a folder as whoever makes a base does, and try it."""
    if family == "image-encoder":
        settings: dict[str, Any] = {"image_size": 12, "channels": 1}
    else:
        settings = {"characters": CHARACTERS, "max_tokens": 512}
    spec = ModelSpec(family=family, adapter="lora", path=str(folder), **settings | changes)  # type: ignore[arg-type]
    features = 145 if family == "image-encoder" else CHARACTERS
    architecture = Architecture.of(spec, features=features, classes=2)
    module = build_module(architecture, seed=0)
    require_readable(module, architecture)
    return module


def configured(folder: Path, **changes: Any) -> None:
    """Change fields of a folder's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": "two"},
        {"num_attention_heads": 0},
        {"num_attention_heads": 5},
        {"pad_token_id": 4096},
        {"hidden_act": "softplusish"},
        {"layer_norm_eps": "tiny"},
        {"max_position_embeddings": [66]},
        {"hidden_size": None},
        {"quantization_config": {"bits": 3}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_configuration_of_other_types_or_sizes_is_one_line(changes: dict[str, Any], text_folder: Any):
    """Whatever transformers raises on it, its user sees one line that names the folder."""
    folder = text_folder("roberta")
    configured(folder, **changes)
    with pytest.raises(ModelError, match=f"^{folder}: [^\n]+$"):
        read_from(folder, "text-encoder")


@pytest.mark.parametrize("data", [b"[]", b"7", b"\xff\xfe", b""], ids=["list", "number", "bytes", "empty"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_holds_something_else_is_one_line(name: str, data: bytes, text_folder: Any):
    """A copy that broke off, or a file of another program under the same name."""
    folder = text_folder("bert")
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"^{folder}: [^\n]+$"):
        read_from(folder, "text-encoder")


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "null", "7",
        '{"image_mean": 0.4, "image_std": 0.2}',
        '{"image_mean": "bright", "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [1, 0, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [1, -1, 1]}',
        '{"image_mean": [0, null, 0], "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 1e999, 0], "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0], "image_std": [1, 1, 1]}',
    ],
)  # fmt: skip
def test_a_normalisation_that_is_none_is_one_line(text: str, image_folder: Any):
    """A deviation of 0 would make every value infinite; what isn't a number for each channel is none."""
    folder = image_folder("vit")
    (folder / "preprocessor_config.json").write_text(text)
    with pytest.raises(ModelError, match=f"^{folder}: [^\n]*preprocessor_config.json[^\n]*$"):
        read_from(folder, "image-encoder")


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        ("{}", (0.5, 0.5, 0.5)),
        ('{"image_mean": null, "size": 8}', (0.5, 0.5, 0.5)),
        ('{"image_mean": [0.2, 0.3, 0.4], "image_std": [1, 2, 0.5]}', (0.2, 0.3, 0.4)),
        ('{"image_mean": [0.25], "image_std": [0.5]}', (0.25, 0.25, 0.25)),
    ],
)
def test_a_normalisation_that_is_one_is_read(text: str, mean: tuple[float, ...], image_folder: Any):
    """Without a word the middle of the range is taken; one value stands for every channel."""
    folder = image_folder("vit")
    (folder / "preprocessor_config.json").write_text(text)
    assert read_from(folder, "image-encoder").reader.pixels.mean == mean  # type: ignore[union-attr]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_one_line(value: float, text_folder: Any):
    """One weight of thousands is enough to make every output of a study worthless."""
    folder = text_folder("electra")
    weights = load_file(folder / "model.safetensors")
    name = sorted(weights)[-1]
    weights[name].view(-1)[-1] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{folder}: .*not finite.*{name.rpartition('.')[0]}.*copy the whole folder"):
        read_from(folder, "text-encoder")


def test_a_model_that_reads_nothing_finite_is_one_line(text_folder: Any):
    """Finite weights can still overflow on the way: a record is tried before a base is made."""
    folder = text_folder("bert")
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        weights[name] = torch.full_like(weights[name], 1e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"outputs .*finite"):
        read_from(folder, "text-encoder")


def test_a_model_that_can_read_no_square_is_one_line(tmp_path: Path):
    """A folder may be whole and well and still be of no use here: a record is tried before a base is made."""
    wide = transformers.ViTConfig(**SIZE, image_size=[8, 16], patch_size=4)
    transformers.ViTForImageClassification(wide).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=f"^{tmp_path}: the model can't be read [^\n]+$"):
        read_from(tmp_path, "image-encoder")


def trimmed(folder: Path, keep: int) -> None:
    """Leave a tokenizer its first tokens alone."""
    path = folder / "tokenizer.json"
    found = json.loads(path.read_text())
    vocabulary = found["model"]["vocab"]
    found["model"]["vocab"] = {token: place for token, place in vocabulary.items() if place < keep}
    path.write_text(json.dumps(found))


@pytest.mark.parametrize("keep", [7, 60, 120])
def test_a_tokenizer_of_a_smaller_model_is_one_line(keep: int, text_folder: Any):
    """It makes only tokens that the model has, and almost every word of a note is unknown to it."""
    folder = text_folder("roberta")
    trimmed(folder, keep)
    with pytest.raises(ModelError, match=f"does not match the model: it has {keep} tokens, the model 300"):
        read_from(folder, "text-encoder")


@pytest.mark.parametrize(("tokens", "embedded"), [(151_665, 152_064), (50_295, 51_200), (260, 384), (128_001, 128_100)])
def test_an_embedding_that_is_filled_up_is_no_mismatch(tokens: int, embedded: int):
    """Publishers round the embedding up to what their cards like, and leave room for tokens to come."""
    from fedmed.models.pretrained import fits_embedding  # noqa: PLC0415  the rule alone

    assert fits_embedding(tokens, embedded)


@pytest.mark.parametrize(("tokens", "embedded"), [(30_522, 50_265), (21_128, 30_522), (50_257, 151_936), (30, 300)])
def test_a_tokenizer_of_another_family_is_a_mismatch(tokens: int, embedded: int):
    """BERT's beside RoBERTa's weights, a Chinese one beside an English one's, GPT-2's beside Qwen's."""
    from fedmed.models.pretrained import fits_embedding  # noqa: PLC0415  the rule alone

    assert not fits_embedding(tokens, embedded)


_SIZED = {**SIZE, "vocab_size": 300, "max_position_embeddings": 66}
_ENDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_OFFSET: dict[str, Callable[[], Any]] = {
    "data2vec-text": lambda: transformers.Data2VecTextModel(transformers.Data2VecTextConfig(**_SIZED, **_ENDS)),
    "roberta-prelayernorm": lambda: transformers.RobertaPreLayerNormModel(
        transformers.RobertaPreLayerNormConfig(**_SIZED, **_ENDS)
    ),
    "camembert": lambda: transformers.CamembertModel(transformers.CamembertConfig(**_SIZED, **_ENDS)),
    "xlm-roberta-xl": lambda: transformers.XLMRobertaXLModel(transformers.XLMRobertaXLConfig(**_SIZED, **_ENDS)),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**_SIZED, **_ENDS)),
}


@pytest.mark.parametrize("family", _OFFSET)
def test_a_long_note_stays_within_the_positions(family: str, tmp_path: Path):
    """Families that count positions from behind the padding have fewer than their table has rows."""
    _OFFSET[family]().save_pretrained(str(tmp_path))
    bytes_of(start="<s>").save_pretrained(str(tmp_path))
    module = read_from(tmp_path, "text-encoder")
    assert module.reader.tokens.max_tokens == 64  # type: ignore[union-attr]


def test_positions_without_an_offset_are_all_used(tmp_path: Path):
    """BERT's padding has no place among its positions."""
    folder = write_text_folder(tmp_path, "bert")
    assert read_from(folder, "text-encoder").reader.tokens.max_tokens == 66  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["text-encoder", "causal-lm", "image-encoder"])
def test_whole_folders_are_readable(family: str, text_folder: Any, causal_folder: Any, image_folder: Any):
    """What is tried on spoilt folders passes on good ones."""
    makers = {"text-encoder": (text_folder, "bert"), "causal-lm": (causal_folder, "gpt2")}
    make, kind = makers.get(family, (image_folder, "resnet"))
    read_from(make(kind), family)
