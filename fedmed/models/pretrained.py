"""Pretrained models from a local folder in the form of Hugging Face, read so that nothing in it can run.

Why it exists: hospitals have no network, and a model folder is somebody else's file.

Rules:
    * Local files and safetensors only. A pickle is never opened, code beside the weights never imported.
    * Every weight that the architecture needs comes from the folder and is a finite number, but for a new head, which
      is drawn from the seed.
    * Whatever a folder makes transformers raise is one line to its user.
    * Weights are float32, and dropout is 0: chance in the forward pass would not repeat between two runs, and the noise
      of private training regularises already.
    * What is adapted is found by the names that families give the queries and values of their attention.

What it does not do: fetch models, or adapt them (see `lora`).
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from fedmed.errors import FedMedError, ModelError

_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5", ".msgpack")
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json")  # without one, transformers makes up an empty one
_TARGETS = (
    ("query", "value"),  # BERT, RoBERTa, XLM-R, ELECTRA
    ("q_proj", "v_proj"),  # Llama, Qwen, Mistral, ViT
    ("q_lin", "v_lin"),  # DistilBERT
    ("query_proj", "value_proj"),  # DeBERTa-v2 and v3
    ("in_proj",),  # DeBERTa, all three in one
    ("c_attn",),  # GPT-2, all three in one
    ("Wqkv",),  # ModernBERT, all three in one
    ("query_key_value",),  # GPT-NeoX, all three in one
    ("qkv_proj",),  # Phi-3, all three in one
    ("q_b_proj", "kv_b_proj"),  # DeepSeek-V2 and V3, out of what they compress
    ("q_proj", "kv_b_proj"),  # their lighter forms, which compress keys and values alone
    ("q", "v"),  # MPNet
    ("convolution",),  # ResNet, which has no attention
)
_ADAPTABLE = (nn.Linear, nn.Conv2d, Conv1D)
_SPARE_TOKENS, _SPARE_SHARE = 128, 0.05  # what publishers add to an embedding beyond the tokens that there are
AutoClass: TypeAlias = Any
"""One of transformers' `AutoModelFor...`."""


def load_pretrained(auto: AutoClass, folder: Path, **settings: object) -> PreTrainedModel:
    """Return the model in `folder`, in float32, without dropout, in eval mode.

    Args:
        auto: Which kind of head it gets; a head that the folder lacks is drawn from torch's generator.
        folder: Where configuration and weights are.
        settings: Further fields of the model's configuration, such as `num_labels`.

    Raises:
        ModelError: The folder lacks weights, has them as a pickle only, is of an unknown kind, or its weights are
            damaged or of another model.
    """
    _refuse_unsafe(folder)
    with one_line(folder):
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **settings)
        for name, value in config.to_dict().items():
            if "drop" in name and isinstance(value, float):
                setattr(config, name, 0.0)
        model, report = auto.from_pretrained(
            str(folder),
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    heads = tuple(f"{name}." for name in head_names(model))
    replaced = {key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]}
    lacking = sorted(key for key in {*report["missing_keys"], *replaced} if not key.startswith(heads))
    lacking = [key for key in lacking if "pooler" not in key.split(".")]  # a masked-language checkpoint has none
    if lacking:
        raise ModelError(
            f"{folder}: the weights are not those of its config.json: {len(lacking)} are missing or of another shape,"
            f" first {lacking[0]}; copy the whole folder again"
        )
    _require_finite(folder, model)
    model.name_or_path = ""  # a path of this machine has no place in an adapter's file
    model.config._name_or_path = ""  # noqa: SLF001  likewise
    return model.eval()  # type: ignore[no-any-return]


def load_tokenizer(folder: Path, model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `folder`, which must be that of `model`.

    Raises:
        ModelError: There is none, it makes tokens that the model does not have, or far fewer than the model has.
    """
    if not any((folder / name).is_file() for name in _TOKENIZERS) and not list(folder.glob("*.model")):
        raise ModelError(f"expected a tokenizer (tokenizer.json) in model folder {folder}, found none; copy it too")
    with one_line(folder):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        vocabulary = set(tokenizer.get_vocab().values())
    embeddings: Any = model.get_input_embeddings()
    known = int(embeddings.num_embeddings)
    largest = max(vocabulary, default=-1)
    if not 0 <= largest < known:
        raise ModelError(
            f"{folder}: the tokenizer does not match the model: it makes tokens up to {largest}, the model has {known};"
            " copy both from one place"
        )
    if not fits_embedding(len(vocabulary), known):
        raise ModelError(
            f"{folder}: the tokenizer does not match the model: it has {len(vocabulary)} tokens, the model {known};"
            " copy both from one place"
        )
    for name in ("pad", "bos", "eos"):
        ours, theirs = getattr(tokenizer, f"{name}_token_id"), getattr(model.config, f"{name}_token_id", None)
        theirs = theirs if isinstance(theirs, list) else [theirs]
        if ours is not None and theirs != [None] and ours not in theirs:
            raise ModelError(
                f"{folder}: the tokenizer does not match the model: {name} is token {ours}, in config.json {theirs[0]};"
                " copy both from one place"
            )
    return tokenizer


def fits_embedding(tokens: int, embedded: int) -> bool:
    """Return whether a tokenizer of so many tokens may belong to an embedding of so many rows.

    Publishers fill an embedding up to a round number; one with many more rows was made for another tokenizer.

    >>> fits_embedding(50_257, 50_304), fits_embedding(21_128, 50_304)
    (True, False)
    """
    return 0 <= embedded - tokens <= max(_SPARE_TOKENS, _SPARE_SHARE * embedded)


def head_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the modules that stand on the pretrained body: what is trained in full and saved with an adapter."""
    if not hasattr(model, model.base_model_prefix):  # the body itself
        return ()
    return tuple(
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    )


def attention_targets(model: nn.Module) -> tuple[str, ...]:
    """Return the endings of the layers that an adapter changes: queries and values, by the names of the family.

    Raises:
        ModelError: No known names occur.
    """
    names = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, _ADAPTABLE)}
    for candidate in _TARGETS:
        if names.issuperset(candidate):
            if candidate[0] == "query_proj" and getattr(model.config, "share_att_key", False):
                return candidate[1:]  # shared queries also read positions, which belong to no record
            return candidate
    raise ModelError(
        f"expected attention that can be adapted, found none in a {type(model).__name__}; "
        f"known: {', '.join('+'.join(candidate) for candidate in _TARGETS)}"
    )


def _require_finite(folder: Path, model: PreTrainedModel) -> None:
    broken = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ModelError(
            f"{folder}: expected weights that are numbers, got some that are not finite in {len(broken)} of them, first"
            f" {broken[0]}; copy the whole folder again"
        )


def _refuse_unsafe(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(f"expected a model folder at {folder}, found none; give model.path the folder of a model")
    if not (folder / "config.json").is_file():
        raise ModelError(f"expected config.json in model folder {folder}, found none; copy the whole folder again")
    if (folder / "adapter_config.json").is_file():
        raise ModelError(f"{folder}: expected a whole model, found an adapter; merge it into its base first")
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        if pickles:
            raise ModelError(
                f"{folder}: the weights are a pickle ({pickles[0]}), which can run code, so it is not opened; save the"
                " model with safetensors"
            )
        raise ModelError(f"expected weights (*.safetensors) in model folder {folder}, found none; copy them too")


@contextlib.contextmanager
def one_line(folder: Path) -> Iterator[None]:
    """Turn whatever a folder makes its readers raise into one line, and keep reports of new heads out of the log.

    Raises:
        ModelError: Something did.
    """
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with without_progress():
            yield
    except FedMedError:
        raise
    except Exception as error:  # noqa: BLE001  a folder is somebody else's: what it makes a library raise is no list
        first = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder}: the model can't be read ({type(error).__name__}: {first})") from None
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def without_progress() -> Iterator[None]:
    """Keep transformers' progress bars off the terminal."""
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
