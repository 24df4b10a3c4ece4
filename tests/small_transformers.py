"""Small transformers with adapters, and records for them: what tests of gradients and machines run.

Why it exists: a wrapper or a loss that differs from test to test would compare different things.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Case = tuple[nn.Module, Tensor, Tensor]
"""A module, inputs and labels."""
TOKENS = 8


class Logits(nn.Module):
    """A transformers model as a function from one tensor to one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits."""
        return self.model(inputs).logits


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of each record, averaged over its own tokens if it has any."""
    if labels.ndim == 1:
        return cross_entropy(logits, labels, reduction="none")
    return cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)


Maker = tuple[Callable[[], nn.Module], list[str], str | None]


def _maker(kind: str, width: int, layers: int) -> Maker:
    """Return what makes a model, which of its layers are adapted, and its head."""
    import transformers as t  # noqa: PLC0415  seconds

    size = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 2 * width,
    }  # fmt: skip
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "use_cache": False}
    makers: dict[str, Maker] = {
        "BERT": (
            lambda: t.BertForSequenceClassification(t.BertConfig(**size, **quiet, vocab_size=50)),
            ["query", "value"],
            "classifier",
        ),
        "GPT-2": (
            lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=50, n_embd=width, n_layer=layers, n_head=2, **still)),
            ["c_attn"],
            None,
        ),
        "Llama": (
            lambda: t.LlamaForCausalLM(t.LlamaConfig(**size, vocab_size=50, use_cache=False)),
            ["q_proj", "v_proj"],
            None,
        ),
        "Qwen2": (
            lambda: t.Qwen2ForCausalLM(
                t.Qwen2Config(**size, vocab_size=50, num_key_value_heads=1, use_cache=False, tie_word_embeddings=True)
            ),
            ["q_proj", "v_proj"],
            None,
        ),
        "ViT": (
            lambda: t.ViTForImageClassification(t.ViTConfig(**size, image_size=16, patch_size=8)),
            ["q_proj", "v_proj"],
            "classifier",
        ),
    }
    return makers[kind]


def transformer(
    kind: str, *, rank: int = 2, width: int = 32, layers: int = 2, records: int = 6, trained_head: bool = True
) -> Case:
    """Return a small transformer with LoRA on its attention whose B isn't zero, and records for it.

    Args:
        kind: BERT, GPT-2, Llama, Qwen2 or ViT.
        rank: Of the adapter.
        width: Of the model.
        layers: How many blocks.
        records: How many.
        trained_head: Whether the head of a classifier is trained beside the adapter.
    """
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  seconds

    make, targets, head = _maker(kind, width, layers)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
        torch.manual_seed(1)
        config = LoraConfig(
            r=rank,
            target_modules=targets,
            modules_to_save=[head] if head and trained_head else None,
            fan_in_fan_out=kind == "GPT-2",
        )
        module = get_peft_model(make(), config)  # type: ignore[arg-type]
        for name, value in module.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value, std=0.3)
    generator = torch.Generator().manual_seed(2)
    if kind == "ViT":
        return Logits(module), torch.randn(records, 3, 16, 16, generator=generator), torch.arange(records) % 2
    tokens = torch.randint(5, 50, (records, TOKENS), generator=generator)
    return Logits(module), tokens, torch.arange(records) % 2 if kind == "BERT" else tokens.roll(-1, 1)
