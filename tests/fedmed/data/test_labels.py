"""What becomes a label, and what has none."""

import polars as pl
import pytest

from fedmed.data.labels import labels_of
from fedmed.data.schema import Column, Schema, Target, TextPart
from fedmed.rows import conversation

TIME = Target(name="death", column="days", event="died", bounds=(30, 90))
SCHEMA = Schema(
    name="trial",
    file="x",
    columns=(
        Column(name="age", kind="number", role="feature", centre=50, scale=10, low=0, high=120),
        Column(name="days", kind="number", role="target", low=0, high=999),
        Column(name="died", kind="binary", role="target", values=("0", "1")),
        Column(name="talk", kind="text", role="free-text"),
    ),
    targets=(TIME, Target(name="answer", column="talk", answered=True)),
    text=TextPart(column="talk", characters=50, form="chat"),
)


@pytest.mark.parametrize(
    ("days", "died", "label"),
    [
        (0.0, 1, 1),  # at once
        (30.0, 1, 1),  # at the bound: still in the span
        (31.0, 1, 3),
        (91.0, 1, 2),  # after the last bound: seen to its end
        (29.0, 0, None),  # lost before the first span ended
        (30.0, 0, 0),
        (89.0, 0, 0),
        (90.0, 0, 2),
        (400.0, 0, 2),
        (None, 1, None),
        (40.0, None, None),
    ],
)
def test_time_is_cut_at_the_bounds(days: float | None, died: int | None, label: int | None):
    """An event falls into its span; who is lost counts for the spans seen to their end, or not at all."""
    table = pl.DataFrame({"days": [days], "died": [died]}, schema={"days": pl.Float64, "died": pl.Int8})
    assert labels_of(table, TIME, SCHEMA).to_list() == [label]


def test_the_outcomes_name_themselves():
    """Two for each span, in the order of the labels."""
    assert TIME.classes == (
        "no event until 30", "event in 0 to 30", "no event until 90", "event in 30 to 90",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("turns", "label"),
    [
        ([("user", "q"), ("assistant", "a")], 1),
        ([("user", "q"), ("assistant", "  ")], None),
        ([("user", "q")], None),
        ([("assistant", "a"), ("user", "q")], None),
    ],
)
def test_a_conversation_needs_an_answer(turns: list[tuple[str, str]], label: int | None):
    """The last turn is the assistant's, and says something."""
    table = pl.DataFrame({"talk": [conversation(turns)]})
    assert labels_of(table, SCHEMA.target("answer"), SCHEMA).to_list() == [label]


@pytest.mark.parametrize(
    "change",
    [
        {"bounds": (30,)},
        {"bounds": (90, 30)},
        {"bounds": (0, 30)},
        {"event": None},
        {"above": 3.0},
        {"classes": ("a", "b")},
    ],
)
def test_a_time_without_rising_bounds_is_refused(change: dict[str, object]):
    """Or without an event, or with another rule beside it."""
    settings = {"name": "t", "column": "days", "event": "died", "bounds": (30, 90), **change}
    with pytest.raises(ValueError, match="target t"):
        Target(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "target",
    [
        Target(name="t", column="days", event="age", bounds=(30, 90)),
        Target(name="t", column="died", event="died", bounds=(30, 90)),
        Target(name="t", column="days", answered=True),
    ],
)
def test_a_target_that_does_not_fit_its_columns_is_refused(target: Target):
    """The time is a number, the event a binary, and only a conversation has an answer."""
    with pytest.raises(ValueError, match="target t"):
        Schema(name="s", file="x", columns=SCHEMA.columns, targets=(target,), text=SCHEMA.text)
