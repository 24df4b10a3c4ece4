"""Tiny folders of pretrained models, as `save_pretrained` writes them, of every family that FedMed reads.

Why it exists: tests need models of each kind, and fetch none.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"#$%&()*+-/<=>@[]^_{}|~"
LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def word_pieces() -> Any:
    """Return a tokenizer of BERT's kind: single letters."""
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*marks, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    found = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )  # fmt: skip


def bytes_of(*, start: str | None, template: str | None = None) -> Any:
    """Return a tokenizer of GPT-2's kind: single bytes; with `start`, sentences stand between <s> and </s>."""
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [*marks, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    found = Tokenizer(models.BPE({token: place for place, token in enumerate(vocabulary)}, [], unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    found.decoder = decoders.ByteLevel()
    if start:
        found.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=found, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>",
        chat_template=template,
    )  # fmt: skip


def _seeded(make: Callable[[], Any], folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = make()
    for value in model.parameters():
        value.data.mul_(3.0)  # far from the tiny weights of a fresh initialisation
    model.save_pretrained(str(folder))
    return folder


def write_text_folder(folder: Path, family: str) -> Path:
    """Write a tiny pretrained encoder of a family with its tokenizer."""
    t, of_bytes = transformers, "roberta" in family or family == "mpnet"
    many = 300 if of_bytes else 200  # a few more than the tokenizer has
    deberta = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8}
    sized = {**SIZE, "vocab_size": many, "max_position_embeddings": 66, "pad_token_id": 0}
    roberta = sized | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    makers: Mapping[str, Callable[[], Any]] = {
        "bert": lambda: t.BertModel(t.BertConfig(**sized)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**roberta)),
        "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**roberta)),
        "mpnet": lambda: t.MPNetModel(t.MPNetConfig(**roberta)),
        "deberta": lambda: t.DebertaModel(t.DebertaConfig(**sized, **deberta)),
        "deberta-v2": lambda: t.DebertaV2Model(t.DebertaV2Config(**sized, **deberta, share_att_key=True)),
        "modernbert": lambda: t.ModernBertModel(
            t.ModernBertConfig(
                **sized, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, local_attention=8
            )
        ),
        "electra": lambda: t.ElectraModel(t.ElectraConfig(**sized, embedding_size=16)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(
                vocab_size=many, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=66
            )
        ),
    }
    _seeded(makers[family], folder)
    tokenizer = bytes_of(start="<s>") if of_bytes else word_pieces()
    tokenizer.save_pretrained(str(folder))
    return folder


def write_causal_folder(folder: Path, family: str, *, template: str | None = TEMPLATE) -> Path:
    """Write a tiny causal model of a family with its tokenizer.

    The distilled models of DeepSeek are Qwen2 and Llama 3.1 by architecture: untied embeddings, scaled positions.
    """
    t = transformers
    marks = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    sized = {**SIZE, **marks, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 256}
    makers: Mapping[str, Callable[[], Any]] = {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=256, **marks)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**sized)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**{k: v for k, v in sized.items() if k != "head_dim"})),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**sized)),
        "deepseek-qwen": lambda: t.Qwen2ForCausalLM(
            t.Qwen2Config(**{k: v for k, v in sized.items() if k != "head_dim"}, tie_word_embeddings=False)
        ),
        "deepseek-llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**sized, rope_parameters=LLAMA_3)),
    }
    _seeded(makers[family], folder)
    bytes_of(start=None, template=template).save_pretrained(str(folder))
    return folder


def write_image_folder(folder: Path, family: str, *, whole: bool = True) -> Path:
    """Write a tiny image encoder of a family, with or without a head."""
    t = transformers
    vit = t.ViTConfig(**SIZE, image_size=16, patch_size=4)
    resnet = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    makers: Mapping[str, Callable[[], Any]] = {
        "vit": lambda: t.ViTForImageClassification(vit) if whole else t.ViTModel(vit),
        "resnet": lambda: t.ResNetForImageClassification(resnet) if whole else t.ResNetModel(resnet),
    }
    return _seeded(makers[family], folder)
