"""Each row keeps the image that it names, whatever the table's form: into training and into predictions."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from federation import tiny_dataset
from PIL import Image as Picture
from plans import plan_of

from fedmed.audit import ChainLog
from fedmed.data.imaging import prepare_images
from fedmed.data.parts import NamedImages
from fedmed.data.schema import Column, DataSet, ImagePart, Schema, Target
from fedmed.deid.policy import DeidPolicy
from fedmed.deid.tabular import deidentify_table
from fedmed.errors import DataError, IntegrityError
from fedmed.models import Architecture, build_module, save_base
from fedmed.records import DataSpec, ModelSpec, canonical_json, digest
from fedmed_site import cli
from fedmed_site.adapters import SHARED, AdapterEntry, Adapters
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import Approvals
from fedmed_site.home import SiteHome
from fedmed_site.readiness import check_table

NOW = datetime(2030, 1, 1, tzinfo=UTC)
SIDE = 6
EYE = Column(name="photo", kind="text", role="direct-identifier")
AGE = Column(name="age", kind="number", role="feature", centre=50, scale=20, low=0, high=120)
SICK = Column(name="retinopathy", kind="category", role="target", values=("none", "mild"))
SCHEMA = Schema(
    name="eyes",
    file="{site}.csv",
    columns=(Column(name="chart", kind="identifier", role="patient-key"), EYE, SICK),
    targets=(Target(name="mild", column="retinopathy", one_of=("mild",)),),
    image=ImagePart(column="photo", size=SIDE),
)
WITH_AGE = replace(SCHEMA, columns=(*SCHEMA.columns, AGE))
HEADER = ["chart", "photo", "retinopathy", "remark"]
Export = Callable[[Path, list[list[str]]], Path]


def dataset_of(schema: Schema) -> DataSet:
    """Return a data set with the split of the other tests."""
    return replace(tiny_dataset(), name=schema.name, schema=schema)


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """Return a site."""
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "west"]) == 0
    return SiteHome(tmp_path / "home")


def photo(folder: Path, name: str, grey: int) -> str:
    """Take a photograph of one grey."""
    Picture.new("L", (SIDE, SIDE), grey).save(folder / name)
    return name


def eyes(folder: Path, *, people: int = 20) -> list[list[str]]:
    """Return a row for each eye of each patient; the sick one is bright."""
    return [
        [f"c{who}", photo(folder, f"{who}-{eye}.png", (who, 255 - who)[eye]), ("none", "mild")[eye], "一般"]
        for who in range(people)
        for eye in (who % 2, 1 - who % 2)
    ]


def learned(home: SiteHome, schema: Schema = SCHEMA) -> np.ndarray:
    """Return the mean grey and the label of each record, as training gets them."""
    datasets = SiteAgent(home).datasets
    data = DataSpec(schema=schema.name, schema_digest=schema.digest, target="mild")
    cohorts = [datasets.load(data, split) for split in ("train", "test")]
    pixels = np.concatenate([cohort.features[:, 1 : 1 + SIDE * SIDE].mean(axis=1) for cohort in cohorts])
    return np.c_[pixels, np.concatenate([cohort.labels for cohort in cohorts])]


def _utf8(path: Path, rows: list[list[str]]) -> Path:
    return _csv(path.with_suffix(".csv"), rows, "utf-8-sig")


def _gb18030(path: Path, rows: list[list[str]]) -> Path:
    return _csv(path.with_suffix(".csv"), rows, "gb18030")


def _csv(path: Path, rows: list[list[str]], encoding: str) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return path


def _parquet(path: Path, rows: list[list[str]]) -> Path:
    pl.DataFrame(rows, schema=HEADER, orient="row").write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def _excel(path: Path, rows: list[list[str]]) -> Path:
    pl.DataFrame(rows, schema=HEADER, orient="row").write_excel(path.with_suffix(".xlsx"))
    return path.with_suffix(".xlsx")


def _lines(path: Path, rows: list[list[str]]) -> Path:
    lines = [json.dumps(dict(zip(HEADER, row, strict=True)), ensure_ascii=False) for row in rows]
    path.with_suffix(".jsonl").write_text("\n".join(lines), encoding="utf-8")
    return path.with_suffix(".jsonl")


@pytest.mark.parametrize("export", [_utf8, _gb18030, _parquet, _excel, _lines])
def test_each_row_trains_on_the_image_that_it_names(home: SiteHome, tmp_path: Path, export: Export) -> None:
    """Two eyes of a patient, one of them ill: with the first one's image under both labels nothing could be learnt."""
    raw = export(tmp_path / "west", eyes(tmp_path))
    SiteAgent(home).prepare(raw, dataset_of(SCHEMA), DeidPolicy())
    found = learned(home)
    assert len(found) == 40
    assert ((found[:, 0] > 0) == (found[:, 1] == 1)).all()
    assert len(np.unique(found[:, 0])) == 40
    assert SiteAgent(home).datasets.images("eyes").images == 40
    page = check_table(raw, SCHEMA)
    assert page.ready
    assert [one.level for one in page.findings if one.name == "images"] == ["ok", "warn"]  # and each is of one grey


def test_rows_that_do_not_pass_take_no_image_of_another(home: SiteHome, tmp_path: Path) -> None:
    """A row is set aside between two others, and each of those still has its own; lines are those of the file."""
    rows = eyes(tmp_path)
    rows[3][2] = "unheard-of"
    raw = _utf8(tmp_path / "west", rows)
    lines = raw.read_bytes().split(b"\r\n")
    lines[6] += b",one too many"
    lines[9] = lines[9].replace("一般".encode(), b'"two\r\nlines"')
    lines.insert(12, b"")
    lines[14] = b'"x"y' + lines[14]
    raw.write_bytes(b"\r\n".join(lines))
    SiteAgent(home).prepare(raw, dataset_of(SCHEMA), DeidPolicy())
    with (home.data("eyes") / "quarantine.csv").open(newline="") as file:
        aside = [(row["line"], row["reason"]) for row in csv.DictReader(file)]
    assert [line for line, _ in aside] == ["5", "7", "16"]
    assert [reason for _, reason in aside][1:] == ["not 4 cells", "quotes do not match"]
    found = learned(home)
    assert len(found) == 37
    assert ((found[:, 0] > 0) == (found[:, 1] == 1)).all()


def test_a_word_for_missing_is_no_number_of_an_image(home: SiteHome, tmp_path: Path) -> None:
    """Hospitals write 1, 2 or -1 for what they don't know; that is no image's number."""
    schema = replace(SCHEMA, missing=("1", "2", "-"))
    rows = eyes(tmp_path)
    rows[5][1] = rows[7][2] = "-"
    SiteAgent(home).prepare(_utf8(tmp_path / "west", rows), dataset_of(schema), DeidPolicy(keep=("retinopathy",)))
    report = SiteAgent(home).datasets.images("eyes")
    assert (report.images, report.missing, report.unreadable) == (39, 1, 0)
    assert len(learned(home, schema)) == 38
    assert (home.data("eyes") / "quarantine.csv").read_text().count("\n") == 1


def test_no_name_of_an_image_passes_the_door(home: SiteHome, tmp_path: Path) -> None:
    """Names of files are often names of people; what is kept is a number."""
    rows = eyes(tmp_path)
    rows[0][1] = photo(tmp_path, "wang-xiaoming.png", 9)
    SiteAgent(home).prepare(_utf8(tmp_path / "west", rows), dataset_of(SCHEMA), DeidPolicy())
    assert SiteAgent(home).datasets.source("eyes")._table["photo"].dtype == pl.Float64
    kept = b"".join(path.read_bytes() for path in home.root.rglob("*") if path.is_file())
    assert b"xiaoming" not in kept


def test_a_row_without_its_patient_has_no_image(home: SiteHome, tmp_path: Path) -> None:
    """It doesn't pass, so its image isn't opened."""
    rows = eyes(tmp_path)
    rows[0][0] = " "
    SiteAgent(home).prepare(_utf8(tmp_path / "west", rows), dataset_of(SCHEMA), DeidPolicy())
    assert SiteAgent(home).datasets.images("eyes").images == 39


def old_form(home: SiteHome, raw: Path, rows: list[list[str]]) -> None:
    """Prepare a data set as an earlier release did: one image for a patient, and no number in a row."""
    key, log = home.pseudonym_key_path.read_bytes(), ChainLog(home.audit_path)
    out = home.data(SCHEMA.name)
    report = deidentify_table(raw, schema=SCHEMA, policy=DeidPolicy(), key=key, out_dir=out, log=log)
    named = NamedImages()
    for row in rows:
        named.number(row[1])
    prepare_images(named, raw.parent, schema=SCHEMA, table=report.output_sha256, out_dir=out, log=log)
    (out / "dataset.json").write_bytes(canonical_json(dataset_of(SCHEMA)))


def test_what_an_earlier_release_paired_is_not_trained_on(home: SiteHome, tmp_path: Path) -> None:
    """The images of patients with several rows were those of their first ones."""
    rows = eyes(tmp_path)
    old_form(home, _utf8(tmp_path / "west", rows), rows)
    with pytest.raises(DataError, match="prepared by an earlier release"):
        SiteAgent(home).datasets.source("eyes")


def test_images_of_another_table_are_not_used(home: SiteHome, tmp_path: Path) -> None:
    """A new table whose images can't be read doesn't get those of the old one."""
    rows = eyes(tmp_path)
    raw = _utf8(tmp_path / "west", rows)
    SiteAgent(home).prepare(raw, dataset_of(SCHEMA), DeidPolicy())
    for name in {row[1] for row in rows}:
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="none of the 40 images"):
        SiteAgent(home).prepare(raw, dataset_of(SCHEMA), DeidPolicy())
    _utf8(tmp_path / "west", rows[2:])
    with pytest.raises(DataError, match="none of the 38 images"):
        SiteAgent(home).prepare(raw, dataset_of(SCHEMA), DeidPolicy())
    with pytest.raises(IntegrityError, match="images of another table"):
        SiteAgent(home).datasets.source("eyes")


# --- predictions ----------------------------------------------------------------------------


def with_model(home: SiteHome, schema: Schema, raw: Path) -> None:
    """Give a site a data set and a model of it."""
    SiteAgent(home).prepare(raw, dataset_of(schema), DeidPolicy())
    features = 1 + SIDE * SIDE + sum(column.is_feature for column in schema.columns)
    spec = ModelSpec(family="linear", adapter="full")
    architecture = Architecture.of(spec, features=features, classes=2)
    module = build_module(architecture, seed=0)
    name = save_base(home.root.parent / "base", architecture, module)
    shutil.copytree(home.root.parent / "base", home.models / name)
    plan = replace(
        plan_of("tiny"), model=spec, base_digest=name,
        data=DataSpec(schema=schema.name, schema_digest=schema.digest, target="mild"),
    )  # fmt: skip
    Approvals(home, ChainLog(home.audit_path)).note(plan, now=NOW)
    size = sum(parameter.numel() for parameter in module.parameters())
    entry = AdapterEntry(plan=digest(plan), name=SHARED, round=1, made="2030-01-01T00:00:00Z")
    Adapters(home.root / "adapters").keep(entry, np.random.default_rng(0).normal(size=size))


def asked(home: SiteHome, file: Path) -> list[dict[str, str]]:
    """Ask the model about a file, and return the answer."""
    out = home.root.parent / "answer.csv"
    words = ["predict", str(file), "--study", "tiny", "--out", str(out), "--home", str(home.root)]
    assert cli.site(words) == 0
    with out.open(newline="") as rows:
        return list(csv.DictReader(rows))


def test_an_image_that_was_not_seen_is_told_beside_its_probability(
    home: SiteHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clinician must know that the photograph played no part; the log counts it."""
    raw = tmp_path / "west.csv"
    lines = ["chart,photo,retinopathy,age", *(",".join([*row[:3], "60"]) for row in eyes(tmp_path))]
    raw.write_text("\n".join(lines))
    with_model(home, WITH_AGE, raw)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    new = tmp_path / "new.csv"
    new.write_text("chart,photo,age\nn1,0-0.png,60\nn1,broken.png,60\nn1,,60\nn1,0-1.png,60\nn2,gone.png,600\n")
    answer = asked(home, new)
    assert [row["why_not"] for row in answer[:4]] == [
        "", "without its image: it can't be read", "without an image: none is named", "",
    ]  # fmt: skip
    assert all(row["yes"] for row in answer[:4])
    assert len({row["yes"] for row in answer[:4]}) == 3  # two images, and none
    assert (answer[4]["yes"], answer[4]["why_not"]) == ("", "age: out of range")
    body = ChainLog(home.audit_path).entries()[-1].body
    assert (body["predicted"], body["skipped"], body["images_missing"], body["images_unreadable"]) == (4, 1, 1, 1)
    assert "1 name no image, 1 have one that can't be read" in capsys.readouterr().out


def test_a_record_with_nothing_but_a_broken_image_says_which(home: SiteHome, tmp_path: Path) -> None:
    """It has no probability; a table of another form is asked in the same way."""
    with_model(home, SCHEMA, _utf8(tmp_path / "west", eyes(tmp_path)))
    new = _parquet(tmp_path / "new", [["n1", "gone.png", "", ""], ["n1", "0-1.png", "", ""], ["n2", "", "", ""]])
    answer = asked(home, new)
    assert [row["why_not"] for row in answer] == [
        "nothing to read; without its image: it can't be read", "", "nothing to read; without an image: none is named",
    ]  # fmt: skip


def test_without_one_image_the_rest_of_a_record_still_answers(home: SiteHome, tmp_path: Path) -> None:
    """A ward without a camera may ask too."""
    raw = tmp_path / "west.csv"
    lines = ["chart,photo,retinopathy,age", *(",".join([*row[:3], "60"]) for row in eyes(tmp_path))]
    raw.write_text("\n".join(lines))
    with_model(home, WITH_AGE, raw)
    (tmp_path / "new.csv").write_text("chart,photo,age\nn1,,60\nn2,,61\n")
    assert [row["why_not"] for row in asked(home, tmp_path / "new.csv")] == ["without an image: none is named"] * 2
