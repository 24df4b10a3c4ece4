"""De-identified tables as cohorts: vouched for, equal in dimension, split by patient."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from fedmed import deid
from fedmed.audit import ChainLog
from fedmed.data import tabular
from fedmed.data.schema import Column, DataSet, Schema, SplitRule, Target, locate, sites_under
from fedmed.data.source import Cohort, Source, View
from fedmed.data.tabular import RowSource, TabularSource, feature_names
from fedmed.deid import DeidPolicy, deidentify_table
from fedmed.errors import DataError, IntegrityError
from fedmed.records import build

CONF = Path(__file__).parents[3] / "conf" / "data"
KEY = bytes(range(32))
SPLIT = SplitRule(kind="hash", test_fraction=0.3)
SCHEMA = Schema(
    name="tiny",
    file="{site}.csv",
    columns=(
        Column(name="id", kind="identifier", role="patient-key"),
        Column(name="age", kind="number", role="quasi-identifier", unit="years", centre=50, scale=10, low=0, high=120),
        Column(name="sex", kind="binary", role="quasi-identifier", values=("F", "M")),
        Column(name="ward", kind="category", role="feature", values=("a", "b", "c")),
        Column(name="dead", kind="binary", role="target", values=("0", "1")),
        Column(name="grade", kind="number", role="target", low=0, high=9),
        Column(name="fate", kind="category", role="target", values=("home", "ward", "morgue")),
    ),
    targets=(
        Target(name="dead", column="dead", one_of=("1",)),
        Target(name="ill", column="grade", above=2),
        Target(name="away", column="fate", one_of=("ward", "morgue"), classes=("home", "away")),
    ),
)
HEADER = "id,age,sex,ward,dead,grade,fate"
DEAD = View(target="dead")


class Site:
    """One site with a raw file that can be de-identified and loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = ChainLog(folder / "audit.jsonl")

    def prepare(self, *lines: str, schema: Schema = SCHEMA) -> None:
        """De-identify these lines."""
        raw = self.folder / "raw.csv"
        raw.write_text("\n".join((HEADER, *lines)))
        policy = DeidPolicy()
        deidentify_table(raw, schema=schema, policy=policy, key=KEY, out_dir=self.folder / "deid", log=self.log)

    def open(self, *, schema: Schema = SCHEMA, split: SplitRule = SPLIT) -> TabularSource:
        """Return the site's source."""
        return TabularSource(self.folder / "deid", schema=schema, split=split, log=self.log, site="north")

    def everyone(self, view: View = DEAD, **more: object) -> Cohort:
        """Return train and test of `view` together."""
        source: Source = self.open(**more)
        train, test = source.load(view, "train"), source.load(view, "test")
        return replace(
            train,
            features=np.concatenate([train.features, test.features]),
            labels=np.concatenate([train.labels, test.labels]),
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return an empty site."""
    return Site(tmp_path)


def patients(count: int = 20) -> list[str]:
    """Return rows of different patients, both labels."""
    return [f"p{i},{40 + i},F,a,{i % 2},{i % 5},home" for i in range(count)]


def test_the_contract_with_deidentification_is_one():
    """Two siblings that do not import each other name the same file, column and kind of record."""
    for name in ("TABLE_FILE", "AUDIT_KIND", "PATIENT"):
        assert getattr(tabular, name) == getattr(deid.tabular, name)


def test_features_are_in_public_units(site: Site):
    """Numbers by centre and scale, flags and one-hot values as -1 and 1, missing as 0."""
    site.prepare("p,60,M,b,1,,", "q,,,,0,,")
    cohort = site.everyone()
    assert cohort.feature_names == ("age", "sex", "ward=a", "ward=b", "ward=c")
    rows = {int(label): row.tolist() for label, row in zip(cohort.labels, cohort.features, strict=True)}
    assert rows == {1: [1.0, 1.0, -1.0, 1.0, -1.0], 0: [0.0] * 5}


def test_features_are_clipped(site: Site):
    """Nothing lies beyond the schema's clip."""
    site.prepare("p,0,F,a,1,,", "q,90,F,a,0,,")
    assert sorted(site.everyone().features[:, 0].tolist()) == [-4.0, 4.0]


def test_drop_first_leaves_out_the_first_value(site: Site):
    """An option of the schema; the values decide, not the data."""
    schema = replace(SCHEMA, drop_first=True)
    site.prepare(*patients(), schema=schema)
    cohort = site.everyone(schema=schema)
    assert cohort.feature_names == ("age", "sex", "ward=b", "ward=c")
    assert (cohort.features[:, 2:] == -1).all()


def test_every_site_has_equal_features(tmp_path: Path):
    """A site that lacks a category has the same dimension."""
    names = []
    for index, ward in enumerate("ab"):
        (tmp_path / ward).mkdir()
        one = Site(tmp_path / ward)
        one.prepare(*(row.replace(",a,", f",{ward},") for row in patients()))
        names.append((one.open().features, one.everyone().features.shape[1]))
        assert index < 2
    assert names[0] == names[1] == (feature_names(SCHEMA), 5)


@pytest.mark.parametrize(("target", "labels"), [("dead", [0, 1, 1]), ("ill", [0, 0, 1]), ("away", [0, 1, 1])])
def test_each_target_maps_its_column(site: Site, target: str, labels: list[int]):
    """A binary, a bound on a number and a set of categories; a row without the target is left out."""
    site.prepare("p,41,F,a,0,1,home", "q,42,F,a,1,2,ward", "r,43,F,a,1,3,morgue", "s,44,F,a,,,")
    cohort = site.everyone(View(target=target))
    order = np.argsort(cohort.features[:, 0])
    assert cohort.labels[order].tolist() == labels
    assert cohort.classes == SCHEMA.target(target).classes


def test_a_cohort_is_selected_by_its_column(site: Site):
    """A study sees the patients of its ward only."""
    site.prepare("p,41,F,a,0,1,home", "q,42,F,b,1,2,ward", "r,43,F,c,1,3,morgue", "s,44,F,,1,1,home")
    cohort = site.everyone(View(target="dead", cohort_column="ward", cohort=("a", "c")))
    np.testing.assert_allclose(np.sort(cohort.features[:, 0]), [-0.9, -0.7], rtol=1e-6)


@given(st.lists(st.text("0123456789abcdef", min_size=4, max_size=8), min_size=1, max_size=40), st.integers(0, 3))
def test_a_patient_stands_on_one_side(tokens: list[str], seed: int):
    """Whatever the other rows are, equal tokens are on the same side."""
    rule = SplitRule(kind="hash", test_fraction=0.3, seed=seed)
    labels = pl.Series([0] * len(tokens))
    sides = tabular._in_test(pl.Series(tokens), labels, rule)
    alone = [bool(tabular._in_test(pl.Series([token]), labels[:1], rule)[0]) for token in tokens]
    assert sides.tolist() == alone


def test_the_hash_split_takes_its_fraction_and_depends_on_the_seed():
    """About 30 % of many patients; another seed takes others."""
    tokens = pl.Series([hashlib.sha256(b"%d" % i).hexdigest() for i in range(5000)])
    first, second = (tabular._in_test(tokens, tokens, replace(SPLIT, seed=seed)) for seed in (0, 1))
    assert abs(first.mean() - 0.3) < 0.02
    assert abs((first & second).mean() - 0.09) < 0.02


def test_a_publishers_own_split_is_kept_and_divides_no_patient():
    """What was published for testing is in no training, and a patient on both sides is refused."""
    rule = SplitRule(kind="column", column="fate", test=("ward", "morgue"))
    rows = {"id": ["a", "b", "c", "d", "d"], "fate": ["home", "ward", "morgue", None, "home"]}
    table = pl.DataFrame({"patient": rows["id"], "age": [41.0, 42, 43, 44, 45], "sex": [0, 1, 0, 1, 0],
                          "ward": list("aabbc"), "dead": [0, 1, 1, 0, 1], "fate": rows["fate"]})  # fmt: skip
    source = RowSource(table, None, schema=SCHEMA, split=rule, site="north")
    sides = [sorted(source.load(DEAD, split).features[:, 0].tolist()) for split in ("train", "test")]
    np.testing.assert_allclose(sides[0], [-0.9, -0.6, -0.5], rtol=1e-6)
    np.testing.assert_allclose(sides[1], [-0.8, -0.7], rtol=1e-6)
    both = table.with_columns(pl.Series("patient", ["a", "a", "c", "d", "d"]))
    with pytest.raises(DataError, match="1 patients stand in train and in test by column 'fate'"):
        RowSource(both, None, schema=SCHEMA, split=rule, site="north").load(DEAD, "train")
    with pytest.raises(DataError, match="lacks column 'fate', by which it is split"):
        RowSource(table.drop("fate"), None, schema=SCHEMA, split=rule, site="north").load(DEAD, "train")


def test_admissions_of_one_patient_stay_together_through_the_whole_path(site: Site):
    """Twenty patients with three admissions each, written in three ways: no age on both sides."""
    site.prepare(*(f"{way.format(i)},{30 + i},F,a,{i % 2},," for i in range(20) for way in ("p{}", " P {}", "ｐ{}")))
    source = site.open()
    sides = [set(source.load(DEAD, split).features[:, 0].tolist()) for split in ("train", "test")]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 20


def test_a_view_of_one_class_is_refused(site: Site):
    """Nothing can be learnt; target, site, file and cohort are named."""
    site.prepare(*patients(), "z,50,F,b,1,4,home")
    view = View(target="dead", cohort_column="ward", cohort=("b",))
    with pytest.raises(DataError, match=r"site north, table\.parquet: target 'dead': every patient .*ward = b has the"):
        site.open().load(view, "train")
    with pytest.raises(DataError, match="target 'away': every patient has the same label; expected two classes"):
        site.open().load(View(target="away"), "train")


def test_an_empty_view_is_refused(site: Site):
    """No patients of the ward at this site."""
    site.prepare(*patients())
    with pytest.raises(DataError, match=r"site north.*no patients in the cohort ward = c; leave this site out"):
        site.open().load(View(target="dead", cohort_column="ward", cohort=("c",)), "train")


@pytest.mark.parametrize(
    ("view", "match"),
    [
        (View(target="x"), "no target 'x'; expected one of: dead, ill, away"),
        (View(target="dead", cohort_column="x", cohort=("a",)), "no column 'x'"),
        (View(target="dead", cohort_column="age", cohort=("50",)), "'age' cannot select a cohort"),
        (View(target="dead", cohort_column="ward", cohort=("z",)), "'ward' has no value 'z'; expected one of: a, b, c"),
    ],
)
def test_an_unknown_view_is_answered_with_the_known_names(site: Site, view: View, match: str):
    """Names come from the schema."""
    site.prepare(*patients())
    with pytest.raises(DataError, match=match):
        site.open().load(view, "train")


def test_a_missing_table_is_refused(site: Site):
    """Raw data alone is not training data."""
    with pytest.raises(DataError, match=r"no de-identified table .*table\.parquet; run the de-identification of tiny"):
        site.open()


def test_a_table_that_no_record_vouches_for_is_refused(site: Site):
    """A table put into the folder by hand is not read."""
    site.prepare(*patients())
    with pytest.raises(IntegrityError, match="the audit log has no record for tiny"):
        TabularSource(site.folder / "deid", schema=SCHEMA, split=SPLIT, log=ChainLog(site.folder / "new"), site="north")


def test_a_changed_byte_is_refused(site: Site):
    """The hash is over every byte."""
    site.prepare(*patients())
    path = site.folder / "deid" / "table.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="not those of the latest audit record"):
        site.open()


def test_an_earlier_table_put_back_is_refused(site: Site):
    """The log vouched for it once; the latest record counts."""
    site.prepare(*patients())
    path = site.folder / "deid" / "table.parquet"
    earlier = path.read_bytes()
    site.prepare(*patients(25))
    site.open()
    path.write_bytes(earlier)
    with pytest.raises(IntegrityError, match="not those of the latest audit record"):
        site.open()


def test_a_table_made_under_another_schema_is_refused(site: Site):
    """A schema that changed means other features or other rules."""
    site.prepare(*patients())
    with pytest.raises(IntegrityError, match="made under another schema tiny"):
        site.open(schema=replace(SCHEMA, clip=3.0))


def test_a_log_that_does_not_verify_vouches_for_nothing(site: Site):
    """A forged log is noticed before the table is read."""
    site.prepare(*patients())
    site.log.path.write_bytes(site.log.path.read_bytes().replace(b'"rows_read":20', b'"rows_read":21'))
    with pytest.raises(IntegrityError, match="audit chain"):
        site.open()


# --- the real data, where it is present ---


@pytest.fixture
def heart(heart_root: Path, tmp_path: Path) -> dict[str, TabularSource]:
    """Return the four hospitals of UCI Heart Disease, de-identified."""
    dataset = _heart()
    sources = {}
    for site in sites_under(heart_root, dataset.schema):
        log = ChainLog(tmp_path / f"{site}.jsonl")
        raw, out = locate(heart_root, dataset.schema, site), tmp_path / site
        deidentify_table(raw, schema=dataset.schema, policy=DeidPolicy(), key=KEY, out_dir=out, log=log)
        sources[site] = TabularSource(out, schema=dataset.schema, split=dataset.split, log=log, site=site)
    return sources


def _heart() -> DataSet:
    return build(yaml_of("heart_disease"), DataSet)


def yaml_of(name: str) -> object:
    """Return the raw YAML of a shipped data set."""
    return yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))


def test_heart_disease_has_flambys_rows_and_split(heart: dict[str, TabularSource]):
    """303, 261, 46 and 130 complete cases, 66/34 per hospital."""
    view = View(target="heart_disease")
    sizes = {name: (len(s.load(view, "train")), len(s.load(view, "test"))) for name, s in heart.items()}
    assert sizes == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


def test_heart_disease_split_is_flambys_row_by_row(heart: dict[str, TabularSource], heart_root: Path):
    """The labels of Cleveland's test rows equal those of FLamby's procedure on the publisher's file."""
    lines = (heart_root / "processed.cleveland.data").read_text().split()
    labels = np.array([float(line.split(",")[-1]) > 0 for line in lines])
    ages = np.array([float(line.split(",")[0]) for line in lines])
    _, test = train_test_split(
        np.arange(303), test_size=0.34, train_size=0.66, random_state=43, shuffle=True, stratify=labels
    )
    cohort = heart["cleveland"].load(View(target="heart_disease"), "test")
    assert cohort.labels.tolist() == labels[np.sort(test)].tolist()
    np.testing.assert_allclose(cohort.features[:, 0] * 10 + 55, ages[np.sort(test)], atol=1e-4)


def test_heart_disease_reaches_the_reference_under_public_ranges(heart: dict[str, TabularSource]):
    """Pooled logistic regression (L2, C = 0.01): 0.819 mean client accuracy and 0.883 pooled AUC, within 0.01."""
    view = View(target="heart_disease")
    train = [source.load(view, "train") for source in heart.values()]
    test = [source.load(view, "test") for source in heart.values()]
    model = LogisticRegression(C=0.01, max_iter=1000)
    model.fit(np.concatenate([c.features for c in train]), np.concatenate([c.labels for c in train]))
    accuracy = np.mean([model.score(c.features, c.labels) for c in test])
    scores = model.decision_function(np.concatenate([c.features for c in test]))
    assert accuracy == pytest.approx(0.819, abs=0.01)
    assert roc_auc_score(np.concatenate([c.labels for c in test]), scores) == pytest.approx(0.883, abs=0.01)


def test_a_class_per_value_is_its_place_and_a_missing_value_is_left_out(site: Site):
    """With three classes a label is the place of its value in one_of, whatever the order of the column's values."""
    fates = Target(name="fate", column="fate", one_of=("morgue", "home", "ward"), classes=("dead", "well", "ill"))
    schema = replace(SCHEMA, targets=(*SCHEMA.targets, fates))
    fate = ("home", "ward", "morgue", "", "home", "home")
    site.prepare(*(f"p{row},{30 + row % 60},F,a,0,1,{fate[row % 6]}" for row in range(60)), schema=schema)
    cohort = site.everyone(View(target="fate"), schema=schema)
    assert np.bincount(cohort.labels).tolist() == [10, 30, 10]
    assert cohort.classes == ("dead", "well", "ill")
    ages = cohort.features[cohort.labels == 1, 0]
    assert {round(float(age) * 10 + 50 - 30) % 6 for age in ages} == {0, 4, 5}
