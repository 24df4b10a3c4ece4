"""k-anonymity, checked by a group-by that shares nothing with the search."""

import itertools
import time
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.deid.anonymity import AnonymityReport, QuasiIdentifier, anonymise
from fedmed.deid.hierarchies import LEVELS, labels
from fedmed.errors import DataError, UsageError

AGE = QuasiIdentifier(column="age", hierarchy="age")
SEX = QuasiIdentifier(column="sex", hierarchy="category")
PLACE = QuasiIdentifier(column="place", hierarchy="address-cn")
DAY = QuasiIdentifier(column="day", hierarchy="date")
ALL = (AGE, SEX, PLACE, DAY)
DISTRICTS = [
    "浙江省宁波市鄞州区",
    "浙江省宁波市海曙区",
    "浙江省杭州市西湖区",
    "江苏省南京市鼓楼区",
    "江苏省南京市玄武区",
]
RARE = "青海省果洛藏族自治州玛多县"


def patients(count: int, seed: int = 0) -> pl.DataFrame:
    """Return a table with a rare district, ages over 89 and several rows for some patients."""
    rng = np.random.default_rng(seed)
    place = rng.choice([*DISTRICTS, RARE], count, p=[0.3, 0.25, 0.2, 0.15, 0.097, 0.003])
    return pl.DataFrame(
        {
            "patient": [f"p{number}" for number in rng.integers(0, max(1, count * 4 // 5), count)],
            "age": np.clip(rng.normal(68, 16, count), 18, 107).round(),
            "sex": rng.choice(["F", "M"], count),
            "place": place,
            "day": pl.Series(np.datetime64("2021-01-01") + rng.integers(0, 1000, count)).cast(pl.Date),
            "code": rng.choice(["I10", "E11", "C50"], count, p=[0.6, 0.3, 0.1]),
            "value": rng.normal(0, 1, count),
        }
    )


def classes(table: pl.DataFrame, names: list[str]) -> dict[tuple[object, ...], list[dict[str, object]]]:
    """Group rows by hand, without the code under test or its library."""
    grouped = defaultdict(list)
    for row in table.to_dicts():
        grouped[tuple(row[name] for name in names)].append(row)
    return grouped


def test_every_class_has_k_patients_and_few_rows_are_left_out():
    """With a rare district and ages over 89: at least 5 patients a class, at most 5 % suppressed, and it says so."""
    table = patients(4000)
    assert (table["age"] > 89).any()
    assert 0 < (table["place"] == RARE).sum() < 30
    out, report = anonymise(table, ALL, k=5, suppression_limit=0.05, patient="patient")
    grouped = classes(out, ["age", "sex", "place", "day"])
    sizes = [len({row["patient"] for row in rows}) for rows in grouped.values()]
    assert min(sizes) >= 5
    assert report.smallest_class == min(sizes)
    assert table.height - out.height == report.rows_suppressed <= 0.05 * table.height
    assert not [age for age in out["age"].unique() if age[:1] == "9" and age != "90+"]


def test_other_columns_are_exact():
    """Codes and laboratory values of the rows that stay come through bit by bit, in order."""
    table = patients(2000).with_row_index("row")
    out, _ = anonymise(table, ALL, k=5, suppression_limit=0.05, patient="patient")
    stayed = table.filter(pl.col("row").is_in(out["row"].to_list()))
    assert out.select("row", "code", "value", "patient").equals(stayed.select("row", "code", "value", "patient"))


def test_ten_visits_of_one_patient_are_a_class_of_one():
    """Rows of one person give no cover to each other."""
    table = pl.DataFrame({"patient": ["a"] * 10 + list("bcdefghijk"), "age": [33.0] * 10 + [57.0] * 10})
    quasi = [QuasiIdentifier(column="age", hierarchy="age")]
    out, report = anonymise(table, quasi, k=5, suppression_limit=0.5, patient="patient")
    assert (out["age"].unique().to_list(), report.rows_suppressed) == (["57"], 10)
    assert anonymise(table, quasi, k=5, suppression_limit=0.5)[1].rows_suppressed == 0


def test_each_class_has_l_different_sensitive_values():
    """Distinct l-diversity holds beside k, checked by hand; a missing value is no value."""
    table = patients(3000).with_columns(code=pl.when(pl.col("code") != "E11").then("code"))
    out, report = anonymise(
        table, ALL[:3], k=5, suppression_limit=0.05, patient="patient", l_diversity=2, sensitive=["code"]
    )
    found = [{row["code"] for row in rows} - {None} for rows in classes(out, ["age", "sex", "place"]).values()]
    assert min(map(len, found)) == report.smallest_diversity >= 2


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(20, 99), st.sampled_from("FM"), st.sampled_from([*DISTRICTS, RARE])), min_size=8),
    st.integers(2, 4),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_the_levels_are_the_best_of_all(rows: list[tuple[int, str, str]], k: int, limit: float):
    """No other combination within the limit loses less, found by trying every one."""
    table = pl.DataFrame(rows, schema={"age": pl.Float64, "sex": pl.String, "place": pl.String}, orient="row")
    quasi = ALL[:3]
    _, report = anonymise(table, quasi, k=k, suppression_limit=limit)
    made = [
        [labels(table[q.column], q.hierarchy, level).to_list() for level in range(len(LEVELS[q.hierarchy]))]
        for q in quasi
    ]
    cost = [[lost(table[q.column], column) for column in levels] for q, levels in zip(quasi, made, strict=True)]
    losses = []
    for node in itertools.product(*(range(len(levels)) for levels in made)):
        sizes = Counter(zip(*(levels[at] for levels, at in zip(made, node, strict=True)), strict=True))
        if sum(size for size in sizes.values() if size < k) <= limit * table.height:
            losses.append(sum(levels[at] for levels, at in zip(cost, node, strict=True)) / 3)
    assert report.loss == pytest.approx(min(losses), abs=1e-9)


def lost(values: pl.Series, labelled: list[str]) -> float:
    """Return the share of entropy that the labels take away, by its definition."""

    def entropy(items: list[object]) -> float:
        shares = np.array(list(Counter(items).values())) / len(items)
        return float(-(shares * np.log(shares)).sum())

    before = entropy(labels(values, "age", 0).to_list() if values.name == "age" else values.to_list())
    return 1 - entropy(labelled) / before if before > 1e-12 else 0.0


def test_the_answer_is_the_same_every_time():
    """Same rows, same levels, same suppression; and the order of the rows plays no part in the levels."""
    table = patients(1500)
    first = anonymise(table, ALL, k=5, suppression_limit=0.05, patient="patient")
    again = anonymise(table, ALL, k=5, suppression_limit=0.05, patient="patient")
    assert first[0].equals(again[0])
    assert first[1] == again[1]
    assert anonymise(table.reverse(), ALL, k=5, suppression_limit=0.05, patient="patient")[1] == first[1]


def test_a_floor_holds_though_k_would_allow_more():
    """`at_least` is the lowest level that is released, whatever the data."""
    quasi = [QuasiIdentifier(column="age", hierarchy="age", at_least=2)]
    table = pl.DataFrame({"age": [40.0] * 50})
    out, report = anonymise(table, quasi, k=2, suppression_limit=0.0)
    assert (out["age"].unique().to_list(), report.levels) == (["40-49"], {"age": "10 years"})


def test_missing_values_are_a_value_of_their_own():
    """A missing age stays missing where enough are missing, and counts as different from any age."""
    table = pl.DataFrame({"age": [None] * 5 + [40.0] * 4 + [None]})
    out, report = anonymise(table, [AGE], k=5, suppression_limit=0.4)
    assert (out["age"].to_list(), report.rows_suppressed) == ([None] * 6, 4)


@pytest.mark.parametrize(
    ("rows", "more", "match"),
    [
        (4, {}, "cannot be made 5-anonymous"),
        (0, {}, "cannot be made 5-anonymous"),
        (50, {"l_diversity": 4, "sensitive": ["code"]}, "5-anonymous and 4-diverse"),
    ],
)
def test_what_cannot_be_done_is_refused(rows: int, more: dict[str, object], match: str):
    """Too few patients or values: nothing is released, and the message holds no row."""
    with pytest.raises(DataError, match=match):
        anonymise(patients(rows), ALL, k=5, suppression_limit=0.05, **more)


def test_too_many_combinations_are_refused():
    """Twenty dates have 5**20 combinations; the cure is named."""
    table = pl.DataFrame({f"d{at}": pl.Series([None], dtype=pl.Date) for at in range(20)})
    quasi = [QuasiIdentifier(column=name, hierarchy="date") for name in table.columns]
    with pytest.raises(UsageError, match="combinations"):
        anonymise(table, quasi, k=2, suppression_limit=0)


@pytest.mark.parametrize("wrong", [{"column": " "}, {"at_least": 5}, {"at_least": -1}])
def test_a_quasi_identifier_out_of_range_cannot_exist(wrong: dict[str, object]):
    """A record that exists is valid."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QuasiIdentifier(**{"column": "age", "hierarchy": "age"} | wrong)


def test_the_report_says_what_it_cost():
    """The audit facts are flat: k, l, rows, suppression, smallest class and the level of each column."""
    _, report = anonymise(patients(1500), ALL, k=5, suppression_limit=0.05, patient="patient")
    assert isinstance(report, AnonymityReport)
    body = report.audit_body()
    assert {name for name in body if name.startswith("anonymity.level.")} == {
        "anonymity.level.age", "anonymity.level.sex", "anonymity.level.place", "anonymity.level.day",
    }  # fmt: skip
    assert body["anonymity.rows_suppressed"] == report.rows_suppressed


def test_two_hundred_thousand_rows_take_seconds():
    """A table of ordinary size does not take minutes; the limit is ten times what was measured."""
    table = patients(200_000)
    started = time.process_time()
    anonymise(table, ALL, k=5, suppression_limit=0.05, patient="patient")
    assert time.process_time() - started < 20
