"""Conversations and prompts of other forms than expected: nothing is lost without a word, nothing ends a study."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_folders import TEMPLATE, write_causal_folder
from transformers import AutoTokenizer

from fedmed.data.labels import labels_of
from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.data.tabular import rows_of_table
from fedmed.errors import ModelError
from fedmed.models import Architecture, build_module
from fedmed.models.language import conversation_ids
from fedmed.records import ModelSpec
from fedmed.rows import conversation, cut_conversation, row_texts, turns_of

STRICT = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""The rules of Gemma's and Mistral's templates."""
WORDS = st.text(st.characters(categories=("L", "Nd"), include_characters=" ?"), min_size=1, max_size=30)


def chat_schema(characters: int) -> Schema:
    """Return the schema of conversations of which so many characters are read."""
    return Schema(
        name="tiny",
        file="{site}.csv",
        columns=(
            Column(name="id", kind="identifier", role="patient-key"),
            Column(name="talk", kind="text", role="free-text"),
        ),
        targets=(Target(name="said", column="talk", answered=True),),
        text=TextPart(column="talk", characters=characters, form="chat"),
    )


def as_read(text: str, characters: int) -> list[tuple[str, str]]:
    """Return the turns that a model sees of a conversation in a table."""
    table = pl.DataFrame({"patient": ["p"], "talk": [text]})
    return turns_of(row_texts(rows_of_table(table, chat_schema(characters), None))[0])


# --- long conversations ---------------------------------------------------------------------


def test_a_long_question_does_not_push_its_answer_out(causal_folder: Any):
    """A record that counts as answered teaches its own answer, not the end of an empty one."""
    turns = as_read(conversation([("user", "since when? " * 20), ("assistant", "three weeks")]), 80)
    assert turns[-1] == ("assistant", "three weeks")
    assert turns[0][0] == "user"
    assert ("since when? " * 20).endswith(turns[0][1])
    tokenizer = AutoTokenizer.from_pretrained(str(causal_folder("llama")))
    _, answer = conversation_ids(tokenizer, conversation(turns), 200)
    assert tokenizer.decode(answer) == "three weeks</s>"


@given(
    turns=st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), WORDS), min_size=1, max_size=6),
    characters=st.integers(1, 120),
)
def test_a_cut_conversation_ends_as_the_whole_one_did(turns: list[tuple[str, str]], characters: int):
    """It fits; its last turn is whole where that fits, and so is every other one but for the oldest one's beginning."""
    whole = conversation(turns)
    cut = cut_conversation(whole, characters=characters)
    assert len(cut) <= characters
    last = conversation(turns[-1:])
    assert cut.endswith(last) if len(last) <= characters else last.startswith(cut)
    if len(last) <= characters:
        found = turns_of(cut)
        assert found[1:] == turns[len(turns) - len(found) :][1:]
        assert found[0][0] == turns[-len(found)][0]
        assert turns[-len(found)][1].endswith(found[0][1])


def test_an_answer_that_is_too_long_alone_is_no_label():
    """What would be learnt is not what was said; the record is counted among those without a label."""
    short, long = conversation([("user", "q"), ("assistant", "a" * 20)]), conversation([("assistant", "a" * 21)])
    found = labels_of(pl.DataFrame({"talk": [short, long]}), chat_schema(31).targets[0], chat_schema(31))
    assert found.to_list() == [1, None]


def test_a_plain_note_is_still_cut_at_its_end():
    """Only conversations have an answer to keep."""
    schema = Schema(
        name="tiny",
        file="{site}.csv",
        columns=(*chat_schema(5).columns, Column(name="ill", kind="binary", role="target", values=("0", "1"))),
        targets=(Target(name="ill", column="ill", one_of=("1",)),),
        text=TextPart(column="talk", characters=5),
    )
    table = pl.DataFrame({"patient": ["p"], "talk": ["cough and fever"], "ill": [1]})
    assert row_texts(rows_of_table(table, schema, None)[:, :5]) == ["cough"]


# --- templates ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("user", "pain?")], "<|user|>pain?<|assistant|>"),
        ([("system", "be brief"), ("user", "pain?")], "<|user|>be brief\n\npain?<|assistant|>"),
        ([("user", "pain?"), ("user", "where?")], "<|user|>pain?\n\nwhere?<|assistant|>"),
        (
            [("assistant", "hello"), ("user", "pain?"), ("assistant", "no"), ("tool", "37.2"), ("user", "sure?")],
            "<|user|>hello\n\npain?<|assistant|>no<|user|>37.2\n\nsure?<|assistant|>",
        ),
    ],
)
def test_turns_that_a_template_refuses_are_told_in_turns_that_it_takes(
    turns: list[tuple[str, str]], expected: str, tmp_path: Path
):
    """A system turn, two of one role, a tool's word: no record is lost, and none ends the study."""
    tokenizer = AutoTokenizer.from_pretrained(str(write_causal_folder(tmp_path, "llama", template=STRICT)))
    before, _ = conversation_ids(tokenizer, conversation([*turns, ("assistant", "well")]), 400)
    assert tokenizer.decode(before) == expected


def test_turns_that_a_template_takes_stay_as_they_are(tmp_path: Path):
    """Only what it refuses is told otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(str(write_causal_folder(tmp_path, "llama", template=TEMPLATE)))
    turns = [("system", "be brief"), ("user", "pain?"), ("assistant", "well")]
    before, _ = conversation_ids(tokenizer, conversation(turns), 400)
    assert tokenizer.decode(before) == "<|system|>be brief<|user|>pain?<|assistant|>"


def test_a_template_for_one_question_gets_one(tmp_path: Path):
    """A conversation of several turns stands in its single turn, role by role."""
    once = "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}[{{ messages[0].content }}]"
    tokenizer = AutoTokenizer.from_pretrained(str(write_causal_folder(tmp_path, "qwen2", template=once)))
    turns = [("user", "pain?"), ("assistant", "no"), ("user", "sure?"), ("assistant", "yes")]
    before, _ = conversation_ids(tokenizer, conversation(turns), 400)
    assert tokenizer.decode(before) == "[user: pain?\nassistant: no\nuser: sure?\n]"


def test_a_record_that_no_form_of_a_template_takes_is_told_without_it(tmp_path: Path):
    """A template may refuse certain words; that is no reason to end a study of all sites."""
    picky = "{% if '#' in messages[0].content %}{{ raise_exception('#') }}{% endif %}" + TEMPLATE
    tokenizer = AutoTokenizer.from_pretrained(str(write_causal_folder(tmp_path, "qwen2", template=picky)))
    before, _ = conversation_ids(tokenizer, conversation([("user", "bed # 4"), ("assistant", "yes")]), 400)
    assert tokenizer.decode(before) == "user: bed # 4\nassistant:"


def causal(folder: Path, **changes: Any) -> Any:
    """Build the causal model of a folder."""
    settings = {"path": str(folder), "characters": 40, "max_tokens": 96} | changes
    spec = ModelSpec(family="causal-lm", adapter="lora", **settings)
    return build_module(Architecture.of(spec, features=40, classes=2), seed=0)


@pytest.mark.parametrize("answers", [(), ("no", "yes")])
@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('never') }}",
        "{% for m in messages %}",
        "{{ messages[0].content + 7 }}",
        "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}",
    ],
    ids=["raises", "broken", "types", "parts"],
)
def test_a_template_that_tells_no_question_is_refused_when_the_folder_is_loaded(
    template: str, answers: tuple[str, ...], tmp_path: Path
):
    """It fails on everything, or leaves out what a user says: one line before anything is trained."""
    folder = write_causal_folder(tmp_path, "llama", template=template)
    with pytest.raises(ModelError, match=f"^{folder}: [^\n]*chat template[^\n]*$"):
        causal(folder, answers=answers)


# --- prompts --------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [80, 100, 400])
def test_a_prompt_that_leaves_no_room_for_a_note_is_refused(words: int, causal_folder: Any):
    """Every note would be dropped, and the model learn from the prompt alone."""
    prompt = "{text}" + "?" * words
    with pytest.raises(ModelError, match=r"model.prompt: .* of model.max_tokens=96 .*shorten"):
        causal(causal_folder("llama"), prompt=prompt, answers=("no", "yes"))


def test_a_template_longer_than_the_tokens_is_refused(causal_folder: Any):
    """Of a conversation nothing but the template's own words would be left."""
    with pytest.raises(ModelError, match=r"model.max_tokens=16"):
        causal(causal_folder("llama"), max_tokens=16)


def test_a_prompt_with_some_room_is_taken(causal_folder: Any):
    """Forty characters of prompt and template leave half of the tokens."""
    causal(causal_folder("llama"), prompt="{text} Is this urgent?", answers=("no", "yes"))
