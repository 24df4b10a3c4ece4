"""Tiny model folders that the tests write themselves, and a consortium that trains on notes or images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import torch
import transformers
from federation import PRIVATE, SECURE, Consortium, build_consortium
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from fedmed.audit import ChainLog
from fedmed.data.schema import DataSet, Schema
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import deidentify_table
from fedmed.models import Architecture, build_module, save_base
from fedmed.records import ContinualSpec, DataSpec, ModelSpec, Plan, TrainingSpec, canonical_json
from fedmed_site.home import SiteHome

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'\"#$%&()*+-/<=>@[]^_{}|~"
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Folder: TypeAlias = Callable[[str], Path]


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
    t, many = transformers, 300
    deberta = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 8}
    sized = {**SIZE, "vocab_size": many, "max_position_embeddings": 66, "pad_token_id": 0}
    roberta = sized | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    makers: Mapping[str, Callable[[], Any]] = {
        "bert": lambda: t.BertModel(t.BertConfig(**sized)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**roberta)),
        "xlm-roberta": lambda: t.XLMRobertaModel(t.XLMRobertaConfig(**roberta)),
        "deberta": lambda: t.DebertaModel(t.DebertaConfig(**sized, **deberta)),
        "deberta-v2": lambda: t.DebertaV2Model(t.DebertaV2Config(**sized, **deberta, share_att_key=True)),
        "electra": lambda: t.ElectraModel(t.ElectraConfig(**sized, embedding_size=16)),
        "distilbert": lambda: t.DistilBertModel(
            t.DistilBertConfig(
                vocab_size=many, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=66
            )
        ),
    }
    _seeded(makers[family], folder)
    tokenizer = bytes_of(start="<s>") if "roberta" in family else word_pieces()
    tokenizer.save_pretrained(str(folder))
    return folder


def write_causal_folder(folder: Path, family: str, *, template: str | None = TEMPLATE) -> Path:
    """Write a tiny causal model of a family with its tokenizer."""
    t = transformers
    marks = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    sized = {**SIZE, **marks, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 256}
    makers: Mapping[str, Callable[[], Any]] = {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=256, **marks)),
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**sized)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**{k: v for k, v in sized.items() if k != "head_dim"})),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**sized)),
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep tiny matrices on one core: threads that wait for each other take longer."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def text_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of a text encoder of a family."""
    return lambda family: write_text_folder(tmp_path / f"text-{family}", family)


@pytest.fixture
def causal_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of a causal model of a family."""
    return lambda family: write_causal_folder(tmp_path / f"causal-{family}", family)


@pytest.fixture
def image_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of an image classifier of a family."""
    return lambda family: write_image_folder(tmp_path / f"image-{family}", family)


@pytest.fixture
def bare_image_folder(tmp_path: Path) -> Folder:
    """Return what writes the folder of an image encoder without a head."""
    return lambda family: write_image_folder(tmp_path / f"image-{family}", family, whole=False)


@dataclass(frozen=True)
class Clinics:
    """Three prepared sites with records of another kind than a plain table, and a base for them."""

    consortium: Consortium
    schema: Schema

    def plan(self, spec: ModelSpec, *, features: int, classes: int = 2, rounds: int = 2, **changes: Any) -> Plan:
        """Give every site the base of `spec`, and return a private plan over the secure sum."""
        architecture = Architecture.of(spec, features=features, classes=classes)
        base = self.consortium.root / "other-base"
        base_digest = save_base(base, architecture, build_module(architecture, seed=5))
        for home in self.consortium.homes:
            target = SiteHome(home).models / base_digest
            if not target.is_dir():
                target.symlink_to(base, target_is_directory=True)
        training = TrainingSpec(rounds=rounds, local_steps=2, sample_rate=0.5, learning_rate=0.1)
        changes = {
            "data": DataSpec(schema="tiny", schema_digest=self.schema.digest, target="ill"),
            "model": spec,
            "base_digest": base_digest,
            "training": training,
            "privacy": PRIVATE,
            "aggregation": SECURE,
            "continual": ContinualSpec(strength=0.0, release_fisher=False),
            **changes,
        }
        return self.consortium.plan(**changes)

    def train(self, plan: Plan, state: Path) -> Path:
        """Run the study and return the folder of its result."""
        replace(self.consortium, base=self.consortium.root / "other-base").runner(plan, state).run()
        return state / "result"


@pytest.fixture
def clinics(tmp_path: Path) -> Callable[..., Clinics]:
    """Return what makes clinics of tables, each its rows with a header; `beside` adds what isn't in them."""

    def make(
        schema: Schema,
        tables: Sequence[Sequence[str]],
        *,
        beside: Callable[[SiteHome, Path, ChainLog], None] | None = None,
    ) -> Clinics:
        consortium = build_consortium(tmp_path / "consortium", sites=len(tables), rows=40, cap_epsilon=1e6)
        dataset = DataSet(name="tiny", schema=schema, split=consortium.dataset.split)
        for place, (root, rows) in enumerate(zip(consortium.homes, tables, strict=True)):
            home = SiteHome(root)
            table = tmp_path / f"clinic-{place}.csv"
            table.write_text("\n".join(rows) + "\n")
            deidentify_table(
                table,
                schema=schema,
                policy=DeidPolicy(free_text="clean"),
                key=home.pseudonym_key_path.read_bytes(),
                out_dir=home.data("tiny"),
                log=ChainLog(home.audit_path),
                clean=lambda text, patient: text,  # noqa: ARG005  what cleans notes has tests of its own
            )
            if beside is not None:
                beside(home, table, ChainLog(home.audit_path))
            (home.data("tiny") / "dataset.json").write_bytes(canonical_json(dataset))
        return Clinics(consortium=consortium, schema=schema)

    return make


def notes(count: int, *, seed: int, words: Sequence[str] = ("fever", "cough")) -> list[tuple[str, int]]:
    """Return notes with the label that their word decides."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        label = int(rng.integers(2))
        others = " ".join(rng.choice(["pain", "none", "mild", "left", "knee"], size=int(rng.integers(0, 4))))
        found.append((f"{words[label]} {others} {number}".replace("  ", " "), label))
    return found


@pytest.fixture
def some_notes() -> Callable[..., list[tuple[str, int]]]:
    """Return what writes notes with labels."""
    return notes
