"""Schemas: strict, complete, and those that ship."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fedmed.data.schema import Column, DataSet, PooledFile, Schema, SplitRule, Target, locate, sites_under
from fedmed.data.tabular import feature_names
from fedmed.errors import ConfigError, DataError
from fedmed.records import build, canonical_json, decode

CONF = Path(__file__).parents[3] / "conf" / "data"
AGE = Column(name="age", kind="number", role="feature", centre=55, scale=10, low=0, high=120)
DEAD = Column(name="dead", kind="binary", role="target", values=("0", "1"))
GRADE = Column(name="grade", kind="number", role="target", low=0, high=4)
SCHEMA = Schema(
    name="tiny",
    file="{site}/table.csv",
    columns=(AGE, DEAD, GRADE),
    targets=(Target(name="dead", column="dead", one_of=("1",)), Target(name="ill", column="grade", above=0)),
    obtain="ask the ward",
)


def shipped(name: str) -> DataSet:
    """Return a data set of conf/data."""
    return build(yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")), DataSet)


@pytest.mark.parametrize("name", ["synthetic", "heart_disease", "stroke_trial"])
def test_shipped_data_sets_are_valid_and_survive_json(name: str):
    """YAML to record to JSON to record changes nothing, so a site can store one."""
    dataset = shipped(name)
    assert decode(canonical_json(dataset), DataSet) == dataset
    assert decode(canonical_json(dataset), DataSet).schema.digest == dataset.schema.digest
    assert dataset.root is None
    assert dataset.schema.licence
    assert dataset.schema.obtain


def test_heart_features_are_flambys_thirteen():
    """Of 14 columns, slope, ca, thal and the target are none; cp and restecg are one-hot with the first dropped."""
    schema = shipped("heart_disease").schema
    assert len(schema.columns) == 14
    assert feature_names(schema) == (
        "age", "sex", "cp=2", "cp=3", "cp=4", "trestbps", "chol", "fbs", "restecg=1", "restecg=2", "thalach", "exang",
        "oldpeak",
    )  # fmt: skip


def test_the_digest_follows_the_schema():
    """Any change of meaning changes the digest; where the files are does not."""
    dataset = shipped("heart_disease")
    assert replace(dataset, root="/elsewhere").schema.digest == dataset.schema.digest
    assert replace(dataset.schema, clip=5.0).digest != dataset.schema.digest


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": " "}, "needs a name"),
        ({"scale": 0}, "column age: a number feature states centre and scale > 0"),
        ({"centre": None}, "column age: a number feature states centre and scale > 0"),
        ({"low": None}, "column age: a number that is kept states low < high"),
        ({"low": 120}, "column age: a number that is kept states low < high"),
        ({"kind": "text"}, "column age: role feature takes kind number or category or binary, got text"),
        ({"kind": "category"}, "column age: a category lists two or more different values"),
        ({"kind": "category", "values": ("a", "a")}, "two or more different values"),
        ({"kind": "binary", "values": ("a", "b", "c")}, "a binary lists two values"),
        ({"kind": "binary", "values": ("a", "b"), "synonyms": {"x": "c"}}, "synonyms map to"),
        ({"synonyms": {"> 89": "old"}}, "synonyms of a number map to numbers in its range, got 'old'"),
        ({"synonyms": {"> 89": "1000"}}, "synonyms of a number map to numbers in its range, got '1000'"),
        ({"role": "patient-key"}, "role patient-key takes kind identifier, got number"),
    ],
)
def test_a_column_that_contradicts_itself_cannot_exist(change: dict[str, object], match: str):
    """Each rule of a column names the column."""
    with pytest.raises(ValueError, match=match):
        replace(AGE, **change)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"version": 2}, "version must be 1, got 2"),
        ({"name": ""}, "needs a name and a file"),
        ({"delimiter": ";;"}, "delimiter must be one character"),
        ({"clip": 0.0}, "clip must be above 0"),
        ({"columns": (AGE, AGE, DEAD, GRADE)}, "two columns have the same name"),
        ({"columns": (DEAD, GRADE)}, "at least one feature"),
        (
            {"columns": (AGE, *(Column(name=n, kind="identifier", role="patient-key") for n in "ab"))},
            "at most one column may be the patient key, got a, b",
        ),
        ({"targets": ()}, "at least one target"),
        ({"targets": (SCHEMA.targets[0],) * 2}, "two targets have the same name"),
        ({"targets": (Target(name="t", column="age", above=1),)}, "no column age with role target"),
        ({"targets": (Target(name="t", column="dead", above=1),)}, "use above for a number"),
        ({"targets": (Target(name="t", column="dead", one_of=("2",)),)}, "one_of names"),
    ],
)
def test_a_schema_that_contradicts_itself_cannot_exist(change: dict[str, object], match: str):
    """Each rule of a schema says what it expected."""
    with pytest.raises(ValueError, match=match):
        replace(SCHEMA, **change)


def test_a_target_has_one_rule():
    """Neither none nor two."""
    for rule in ({}, {"above": 0.0, "one_of": ("1",)}):
        with pytest.raises(ValueError, match="not both"):
            Target(name="t", column="dead", **rule)


def test_an_unknown_key_of_the_yaml_is_named():
    """A misspelt key is refused with its path."""
    raw = yaml.safe_load((CONF / "heart_disease.yaml").read_text(encoding="utf-8"))
    raw["schema"]["columns"][0]["center"] = 55
    with pytest.raises(ConfigError, match=r"schema\.columns\[0\]\.center: unknown key"):
        build(raw, DataSet)


def test_a_row_split_is_refused_where_patients_have_several_rows():
    """FLamby's split goes by rows; with a patient key it would leak between train and test."""
    keyed = replace(SCHEMA, columns=(*SCHEMA.columns, Column(name="id", kind="identifier", role="patient-key")))
    with pytest.raises(ValueError, match="both sides"):
        DataSet(name="tiny", schema=keyed, split=SplitRule(kind="flamby", test_fraction=0.3))


def test_a_data_set_has_one_name():
    """The name that a plan uses is the schema's."""
    with pytest.raises(ValueError, match=r"name other and schema\.name tiny"):
        DataSet(name="other", schema=SCHEMA, split=SplitRule(kind="hash", test_fraction=0.3))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_split_leaves_something_on_both_sides(fraction: float):
    """A test fraction is strictly between 0 and 1."""
    with pytest.raises(ValueError, match="test_fraction"):
        SplitRule(kind="hash", test_fraction=fraction)


def test_unknown_columns_and_targets_are_answered_with_the_known_ones():
    """The message helps to choose."""
    with pytest.raises(DataError, match="no column 'x'; expected one of: age, dead, grade"):
        SCHEMA.column("x")
    with pytest.raises(DataError, match="no target 'x'; expected one of: dead, ill"):
        SCHEMA.target("x")


def test_a_table_is_found_below_the_common_folder_or_the_sites_own(tmp_path: Path):
    """A hospital points at its own folder, a simulation at the folder of all."""
    table = tmp_path / "north" / "table.csv"
    table.parent.mkdir()
    table.write_text("x")
    assert locate(tmp_path, SCHEMA, "north") == locate(tmp_path / "north", SCHEMA, "north") == table
    assert sites_under(tmp_path, SCHEMA) == ("north",)


def test_a_missing_folder_or_file_says_what_was_expected(tmp_path: Path):
    """Both messages name the file and where to get it."""
    with pytest.raises(DataError, match=r"folder .*gone does not exist; expected north/table\.csv in it; ask the ward"):
        locate(tmp_path / "gone", SCHEMA, "north")
    with pytest.raises(DataError, match=r"not hold the table of site north; expected north/table\.csv in it; ask"):
        locate(tmp_path, SCHEMA, "north")
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(DataError, match=r"no tables below .*; expected files like \{site\}/table\.csv; ask"):
            sites_under(root, SCHEMA)


def test_listed_sites_must_all_be_there(tmp_path: Path):
    """One missing publisher's file is named, and another site is unknown."""
    schema = shipped("heart_disease").schema
    for site in ("cleveland", "hungarian", "va"):
        (tmp_path / f"processed.{site}.data").write_text("x")
    with pytest.raises(DataError, match=r"expected processed\.switzerland\.data in it; download"):
        sites_under(tmp_path, schema)
    with pytest.raises(DataError, match="no site 'bern'; expected one of: cleveland"):
        locate(tmp_path, schema, "bern")


TEN = tuple(str(digit) for digit in range(10))
DIGIT = Column(name="digit", kind="category", role="target", values=TEN)


def test_a_target_may_have_as_many_classes_as_values():
    """With more than two classes, one_of lists the value of each; two classes keep their meaning."""
    assert Target(name="digit", column="digit", one_of=TEN, classes=TEN).multiclass
    assert not Target(name="dead", column="dead", one_of=("1",)).multiclass


@pytest.mark.parametrize(
    ("one_of", "classes", "message"),
    [
        (TEN[:9], TEN, "with 10 classes, one_of lists a different value for each, got 9"),
        ((*TEN[:9], "0"), TEN, "with 10 classes, one_of lists a different value for each, got 9"),
        (("1",), ("a", "a"), "two or more different classes"),
        (("1",), ("a",), "two or more different classes"),
    ],
)
def test_classes_and_values_that_do_not_match_are_refused(
    one_of: tuple[str, ...], classes: tuple[str, ...], message: str
):
    """A target never leaves open which value a class stands for."""
    with pytest.raises(ValueError, match=message):
        Target(name="digit", column="digit", one_of=one_of, classes=classes)


def test_a_number_has_two_classes_only():
    """Above a bound or not: a third class has no meaning."""
    with pytest.raises(ValueError, match="one_of lists a different value for each"):
        Target(name="ill", column="grade", above=0, classes=("a", "b", "c"))


def test_a_pooled_file_needs_sites_and_a_header():
    """A file is divided among known sites by a named column."""
    pooled = PooledFile(file="all.csv", column="site")
    split = SplitRule(kind="hash", test_fraction=0.3)
    with pytest.raises(ValueError, match="divided among the sites"):
        DataSet(name="tiny", schema=SCHEMA, split=split, pooled=pooled)
    headless = replace(SCHEMA, sites=("a",), header=False)
    with pytest.raises(ValueError, match="needs a header"):
        DataSet(name="tiny", schema=headless, split=split, pooled=pooled)
    with pytest.raises(ValueError, match="needs its name and a column"):
        PooledFile(file=" ", column="site")


def test_how_a_file_is_divided_does_not_change_the_schema():
    """A hospital with its own file and a researcher with the published one hold data under one schema."""
    trial = shipped("stroke_trial")
    assert replace(trial, pooled=None).schema.digest == trial.schema.digest


def test_stroke_features_are_known_at_randomisation():
    """Country and outcomes are no features; 3 numbers, 8 binaries and 11 categories make 47."""
    schema = shipped("stroke_trial").schema
    names = feature_names(schema)
    assert len(names) == 47
    assert not [name for name in names if name.startswith(("COUNTRY", "ID14", "OCCODE"))]
    assert [target.name for target in schema.targets] == ["dead_14d", "dead_or_dependent_6m"]
