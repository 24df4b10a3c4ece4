"""Tiny pretrained models in local folders, as a user would have real ones."""

from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MARKS = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 200}


def saved(model: Any, folder: Path, *, more: int = 0) -> Path:
    """Write a model with a tokenizer of bytes, and `more` words that it would need to know."""
    model.save_pretrained(str(folder))
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokens += [f"word{place}" for place in range(more)]
    tokenizer = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    ).save_pretrained(str(folder))  # fmt: skip
    return folder


def encoder(folder: Path, *, more: int = 0) -> Path:
    """Write a RoBERTa of one layer and return its folder."""
    return saved(transformers.RobertaModel(transformers.RobertaConfig(**SIZE, **MARKS)), folder, more=more)
