"""Causal models: answers are learnt record by record, whatever else is in the batch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.errors import ModelError
from fedmed.models import Architecture, attach_adapter, build_module, load_module, record_losses, scores
from fedmed.models.folder import folder_digest
from fedmed.models.language import AnswerReader, conversation_ids, question
from fedmed.models.text import Tokens
from fedmed.privacy.engine import per_record_gradients
from fedmed.privacy.precision import longest
from fedmed.records import ModelSpec
from fedmed.rows import conversation, text_rows

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
CHARACTERS = 64
CHAT = Schema(
    name="tiny",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="talk", kind="text", role="free-text"),
    ),
    targets=(Target(name="ill", column="talk", answered=True),),
    text=TextPart(column="talk", characters=CHARACTERS, form="chat"),
)
NOTES = Schema(
    name="tiny",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="note", kind="text", role="free-text"),
        Column(name="ill", kind="binary", role="target", values=("0", "1")),
    ),
    targets=(Target(name="ill", column="ill", one_of=("1",)),),
    text=TextPart(column="note", characters=CHARACTERS),
)


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    """Return a causal model with a small adapter."""
    settings = {"path": str(folder), "characters": CHARACTERS, "max_tokens": 96, "lora_rank": 4, "lora_alpha": 8.0}
    return ModelSpec(family="causal-lm", adapter="lora", **settings | changes)


def talk(question: str, answer: str) -> str:
    """Return a conversation of one question and its answer."""
    return conversation([("user", question), ("assistant", answer)])


def adapted(spec: ModelSpec) -> torch.nn.Module:
    """Return the model of `spec` with an adapter that does something."""
    architecture = Architecture.of(spec, features=CHARACTERS, classes=2)
    module = attach_adapter(build_module(architecture, seed=1), spec, seed=1)
    with torch.no_grad():
        for number, (name, value) in enumerate(module.named_parameters()):
            if "lora_B" in name:
                value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(number)))
    return module


def rows(*texts: str) -> torch.Tensor:
    """Return texts as rows."""
    return torch.from_numpy(text_rows(texts, characters=CHARACTERS))


@pytest.mark.parametrize("family", FAMILIES)
def test_two_private_rounds_on_conversations_and_the_adapter_loads_in_plain_peft(
    family: str, causal_folder: Any, clinics: Any, some_notes: Any, tmp_path: Path
):
    """Answers are learnt under privacy and the secure sum; PEFT alone gives the released model's loss."""
    tables = [
        ["id,talk", *(f"p{i},{talk(text, 'ill' if label else 'well')}" for i, (text, label) in enumerate(made))]
        for made in (some_notes(30, seed=seed) for seed in range(3))
    ]
    sites = clinics(CHAT, tables)
    plan = sites.plan(spec_of(causal_folder(family)), features=CHARACTERS)
    result = sites.train(plan, tmp_path / "state")
    _, module = load_module(result / "base", expected_digest=folder_digest(result / "base"))
    ours = attach_adapter(module, plan.model, seed=plan.seed)
    ours.load_adapter(str(result / "model"), "released")
    ours.set_adapter("released")
    base = str(result / "base" / "text")
    plain = AutoModelForCausalLM.from_pretrained(base, local_files_only=True)
    plain = PeftModel.from_pretrained(plain, str(result / "model")).eval()
    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
    before = tokenizer("<|user|>fever 7<|assistant|>", add_special_tokens=False)["input_ids"]
    answer = [*tokenizer("ill", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        found = ours.eval()(rows(talk("fever 7", "ill")))
        logits = plain(input_ids=torch.tensor([before + answer])).logits[0, len(before) - 1 : -1]
    expected = functional.cross_entropy(logits, torch.tensor(answer))
    assert math.isclose(float(record_losses(found, torch.ones(1))[0]), float(expected), rel_tol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_two_private_rounds_on_choices(family: str, causal_folder: Any, clinics: Any, some_notes: Any, tmp_path: Path):
    """With answers to choose from, notes with classes are learnt; outputs are the logits of each answer."""
    tables = [
        ["id,note,ill", *(f"p{i},{text},{label}" for i, (text, label) in enumerate(some_notes(30, seed=seed)))]
        for seed in range(3)
    ]
    sites = clinics(NOTES, tables)
    spec = spec_of(causal_folder(family), prompt="{text} ill?", answers=("no", "yes"))
    plan = sites.plan(spec, features=CHARACTERS)
    result = sites.train(plan, tmp_path / "state")
    _, module = load_module(result / "base", expected_digest=folder_digest(result / "base"))
    assert attach_adapter(module, plan.model, seed=1)(rows("fever", "cough")).shape == (2, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_alone_has_the_loss_that_it_has_beside_a_longer_one(family: str, causal_folder: Any):
    """Left padding moves no position and hides nothing: not the loss, not the gradient."""
    module = adapted(spec_of(causal_folder(family)))
    batch = rows(talk("hm", "a"), talk("a much longer question, is it?", "a long answer"), talk("", "b"))
    with torch.no_grad():
        together = module.eval()(batch)
        alone = torch.cat([module(row[None]) for row in batch])
    assert torch.allclose(together, alone, atol=1e-4)
    labels = torch.ones(3, dtype=torch.int64)
    rows_of = torch.cat(list(per_record_gradients(module, loss=record_losses, inputs=batch, labels=labels)))
    single = [
        next(iter(per_record_gradients(module, loss=record_losses, inputs=row[None], labels=labels[:1])))
        for row in batch
    ]
    assert float(rows_of.abs().max()) > 0
    assert torch.allclose(rows_of, torch.cat(single), atol=1e-4 * float(rows_of.abs().max()))


class Written:
    """What a model returned, with logits that prefer these tokens."""

    def __init__(self, wanted: list[list[int]]) -> None:
        self.logits = torch.zeros(len(wanted), len(wanted[0]) + 1, 10)
        for row, tokens in zip(self.logits, wanted, strict=True):
            for place, token in enumerate(tokens):
                row[place, token] = 5.0


def test_exact_match_is_what_greedy_decoding_gives():
    """Every token of the answer and its end come first; padding before a shorter answer is not looked at."""
    reader = AnswerReader(Tokens("nowhere", 8), 8)
    labels = torch.tensor([[3, 4, 2], [-100, 4, 2], [3, 4, 2], [3, 4, 2]])
    found = reader.outputs(Written([[3, 4, 2], [9, 4, 2], [3, 4, 5], [3, 1, 2]]), {"shifted": labels})
    assert scores(found).argmax(1).tolist() == [1, 1, 0, 0]
    assert record_losses(found, torch.ones(4))[0] == record_losses(found, torch.ones(4))[1]  # a mean, not a sum


def test_logits_are_those_before_each_token():
    """A model that prefers every token one place too late is wrong everywhere."""
    reader = AnswerReader(Tokens("nowhere", 8), 8)
    late = Written([[9, 3, 4]])
    assert scores(reader.outputs(late, {"shifted": torch.tensor([[3, 4, 2]])})).argmax(1).tolist() == [0]


def test_answers_that_begin_alike_are_refused(causal_folder: Any):
    """One token can't tell them apart; the message says what to do."""
    spec = spec_of(causal_folder("gpt2"), answers=("yes", "yesterday"))
    with pytest.raises(ModelError, match=r"model.answers: expected answers whose first tokens differ.*letters"):
        build_module(Architecture.of(spec, features=CHARACTERS, classes=2), seed=1)


def test_as_many_answers_as_classes(causal_folder: Any):
    """Three answers can't stand for two classes."""
    spec = spec_of(causal_folder("gpt2"), answers=("a", "b", "c"))
    with pytest.raises(ModelError, match="answers must name one for each of 2 classes"):
        Architecture.of(spec, features=CHARACTERS, classes=2)


@pytest.mark.parametrize("max_tokens", [8, 20, 200])
def test_too_long_a_conversation_loses_its_beginning_and_never_its_answer(causal_folder: Any, max_tokens: int):
    """What is left ends with the answer and its end, and is no longer than the model may see."""
    tokenizer = Tokens(str(causal_folder("llama")), max_tokens).tokenizer()
    before, answer = conversation_ids(tokenizer, talk("a rather long question", "yes"), max_tokens)
    assert len(before) + len(answer) <= max_tokens
    assert answer == [*tokenizer("yes", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(before).endswith("<|assistant|>"[-len(before) :])


def test_too_long_a_note_is_cut_inside_its_prompt(causal_folder: Any):
    """The question after the note stays whole."""
    tokenizer = Tokens(str(causal_folder("llama")), 60).tokenizer()
    asked = question(tokenizer, "{text} Is it malignant?", "n" * 500, 60)
    assert asked.endswith("n Is it malignant?<|assistant|>")
    assert len(tokenizer(asked, add_special_tokens=False)["input_ids"]) <= 60


@pytest.mark.parametrize(
    ("family", "names"), [("gpt2", {"c_attn"}), ("llama", {"q_proj", "v_proj"}), ("qwen3", {"q_proj", "v_proj"})]
)
def test_attention_is_found_by_the_familys_names(family: str, names: set[str], causal_folder: Any):
    """Only B of those layers is trained: the head of a language model is its vocabulary."""
    module = adapted(spec_of(causal_folder(family)))
    trained = [name for name, value in module.named_parameters() if value.requires_grad]
    assert {name.split(".")[-4] for name in trained} == names
    assert all("lora_B" in name for name in trained)


@pytest.mark.parametrize("answers", [(), ("no", "yes")])
def test_texts_of_one_length_have_the_outputs_that_they_have_alone(answers: tuple[str, ...], causal_folder: Any):
    """Filled up to the most tokens on the left, questions and conversations keep choices and losses."""
    module = adapted(spec_of(causal_folder("qwen2"), answers=answers)).eval()
    batch = rows("how is a", "how is the pulse of b") if answers else rows(talk("a", "ill"), talk("and b", "well"))
    with torch.no_grad():
        short = module(batch)
        with longest(module):
            filled = module(batch)
    assert torch.allclose(short, filled, atol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_a_causal_model_gives_gradients_in_half_precision(family: str, causal_folder: Any):
    """The loss is float32, and a record's row doesn't change by a bit with the length of another one's answer."""
    module = adapted(spec_of(causal_folder(family)))
    found = {}
    for other in ("well", "well, but not very"):
        batch = rows(talk("a", "ill"), talk("b", other))
        for precision in ("fp32", "bf16"):
            gradients = per_record_gradients(
                module,
                loss=record_losses,
                inputs=batch,
                labels=torch.zeros(2),
                precision=precision,  # type: ignore[arg-type]
            )
            found[other, precision] = torch.cat(list(gradients))
    exact, half = found["well", "fp32"][0], found["well", "bf16"][0]
    assert 0 < float((half - exact).norm() / exact.norm()) < 0.2
    assert torch.equal(half, found["well, but not very", "bf16"][0])
