"""Behaviour of data sets whose records are the sealed items of a de-identified folder."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from federation import SECURE, Consortium, MemoryChannel, build_consortium, tiny_dataset, twin_of, write_table

from fedmed.data.schema import Column, DataSet, ImagePart, Schema, SplitRule, Target, TextPart
from fedmed.data.source import Cohort
from fedmed.deid.policy import DeidPolicy
from fedmed.errors import DataError, FedMedError, IntegrityError
from fedmed.records import DataSpec, canonical_json
from fedmed_server.result import load_knowledge
from fedmed_sim.entropy import SimulatedEntropy
from fedmed_sim.phantoms.dicom import draw_patient_files
from fedmed_sim.phantoms.people import draw_person
from fedmed_site import cli, doctor_site
from fedmed_site.agent import SiteAgent
from fedmed_site.audit_check import verify_site
from fedmed_site.doctor import Patient
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEM_KIND

KEY = Column(name="record", kind="identifier", role="patient-key")
ILL = Column(name="ill", kind="binary", role="target", values=("0", "1"), required=True)
TARGET = (Target(name="ill", column="ill", one_of=("1",)),)
SPLIT = SplitRule(kind="hash", test_fraction=0.3)
CANARY = "quokkafever"
"""A word that de-identification keeps, so that whoever writes something readable is found."""


@dataclass(frozen=True)
class Bay:
    """One kind of data set, with a raw export of it."""

    dataset: DataSet
    source: Path
    rows: int


def bay_of(kind: str, folder: Path) -> Bay:
    """Write the raw export of one kind of data set."""
    source = folder / "export"
    source.mkdir(parents=True)
    if kind == "table":
        write_table(source / "patients.csv", rows=60, seed=3)
        return Bay(tiny_dataset(), source, 60)
    if kind == "notes":
        note = Column(name="note", kind="text", role="free-text")
        schema = Schema(
            name="tiny", file="{site}.jsonl", columns=(KEY, note, ILL), targets=TARGET,
            text=TextPart(column="note", characters=60),
        )  # fmt: skip
        lines = [
            {"record": f"MRN{i:05d}", "note": f"{CANARY} {i}. Patient: John Smithson, stable.", "ill": str(i % 2)}
            for i in range(40)
        ]
        (source / "notes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return Bay(DataSet(name="tiny", schema=schema, split=SPLIT), source, 40)
    scan = Column(name="scan", kind="text", role="direct-identifier")
    schema = Schema(
        name="tiny",
        file="{site}.csv",
        columns=(KEY, scan, ILL),
        targets=TARGET,
        image=ImagePart(column="scan", size=16),
    )
    rng, rows = np.random.default_rng(11), ["record,scan,ill"]
    for number in range(12):
        person = draw_person(rng, "en")
        first = ""
        for phantom in draw_patient_files(rng, person, key=f"p{number:02d}", kinds=("CT",), images=3):
            path = source / phantom.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(phantom.payload)
            first = first or phantom.name
        rows.append(f"{_patient_id(source / first)},{first},{number % 2}")
    (source / "patients.csv").write_text("\n".join(rows) + "\n")
    return Bay(DataSet(name="tiny", schema=schema, split=SPLIT), source, 12)


def _patient_id(path: Path) -> str:
    import pydicom  # noqa: PLC0415  for images alone

    return str(pydicom.dcmread(path, stop_before_pixels=True).PatientID)


def deidentified(home: Path, bay: Bay, out: Path, *more: str) -> Path:
    """Run `fedmed site deidentify` under the data set's description and return its folder."""
    description = out.with_suffix(".yaml")
    description.write_bytes(canonical_json(bay.dataset))
    words = ["deidentify", str(bay.source), "--out", str(out), "--home", str(home), "--workers", "1"]
    assert cli.site([*words, "--policy", "hipaa-safe-harbor", "--data", str(description), *more]) == 0
    return out


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a site."""
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    return tmp_path / "home"


@pytest.fixture(params=["table", "notes", "images"])
def bay(request: pytest.FixtureRequest, tmp_path: Path) -> Bay:
    """Return each kind of data set."""
    return bay_of(request.param, tmp_path / "raw")


def spec(bay: Bay) -> DataSpec:
    """Return the view that a plan would name."""
    return DataSpec(schema="tiny", schema_digest=bay.dataset.schema.digest, target="ill")


def loaded(home: Path, bay: Bay) -> tuple[Cohort, Cohort]:
    """Load both parts of the split, as training does."""
    datasets = SiteAgent.open(home).datasets
    return datasets.load(spec(bay), "train"), datasets.load(spec(bay), "test")


def same(one: tuple[Cohort, Cohort], other: tuple[Cohort, Cohort]) -> bool:
    """Tell whether two pairs of cohorts hold the same records, in whatever order."""

    def rows(cohort: Cohort) -> list[bytes]:
        return sorted(np.c_[cohort.features, cohort.labels].tobytes() for cohort in [cohort])

    return [rows(cohort) for cohort in one] == [rows(cohort) for cohort in other]


class Writes:
    """What this process opens to write, while the block runs; an audit hook can't be removed, so it sleeps between."""

    _watching: "Writes | None" = None
    _hooked = False

    def __init__(self) -> None:
        self.paths: list[str] = []

    def __enter__(self) -> "Writes":
        if not Writes._hooked:
            sys.addaudithook(Writes._see)
            Writes._hooked = True
        Writes._watching = self
        return self

    def __exit__(self, *_: object) -> None:
        Writes._watching = None

    @staticmethod
    def _see(event: str, arguments: tuple[Any, ...]) -> None:
        if Writes._watching is None or event != "open" or not isinstance(arguments[2], int):
            return
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            Writes._watching.paths.append(str(arguments[0]))


def readable_below(folder: Path, *, but: Path) -> Iterator[str]:
    """Yield each file that holds the canary, or a table, image or note that anybody could read."""
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_relative_to(but):
            continue
        data = path.read_bytes()
        if CANARY.encode() in data or data[:4] == b"PAR1" or data[128:132] == b"DICM" or b"MRN0" in data:
            yield path.name


def test_sealed_items_are_trained_on_as_they_lie(home: Path, bay: Bay, tmp_path: Path) -> None:
    """Every kind loads from sealed items; nothing readable is written, neither to stay nor for a moment."""
    out = deidentified(home, bay, tmp_path / "out")
    assert all(path.suffix == ".sealed" for path in (out / "items").rglob("*") if path.is_file())
    SiteAgent.open(home).register(out, bay.dataset)
    with Writes() as writes:
        train, test = loaded(home, bay)
    assert len(train) + len(test) == bay.rows
    assert np.ptp(train.features) > 0
    assert not [path for path in writes.paths if not path.endswith(".lock")]
    assert not list(readable_below(tmp_path, but=bay.source))


def test_an_export_of_the_same_files_gives_the_same_records(home: Path, bay: Bay, tmp_path: Path) -> None:
    """Whether items are sealed changes nothing in what is trained on."""
    twin = tmp_path / "twin"
    shutil.copytree(home, twin)
    SiteAgent.open(home).register(deidentified(home, bay, tmp_path / "out"), bay.dataset)
    SiteAgent.open(twin).register(deidentified(twin, bay, tmp_path / "export", "--export"), bay.dataset)
    for one, other in zip(loaded(home, bay), loaded(twin, bay), strict=True):
        assert (one.features == other.features).all()
        assert (one.labels == other.labels).all()


@pytest.mark.parametrize("kind", ["table", "notes"])
def test_a_prepared_table_gives_the_same_records(home: Path, tmp_path: Path, kind: str) -> None:
    """The short way in, `prepare` of a raw table, leaves the same records as the folder does, sealed too."""
    bay = bay_of(kind, tmp_path / "raw")
    SiteAgent.open(home).register(deidentified(home, bay, tmp_path / "out"), bay.dataset)
    before = loaded(home, bay)
    (raw,) = bay.source.iterdir()
    SiteAgent.open(home).prepare(raw, bay.dataset, DeidPolicy(free_text="clean"))
    assert same(before, loaded(home, bay))
    assert not list(readable_below(tmp_path, but=bay.source))
    assert sorted(path.name for path in SiteHome(home).data("tiny").iterdir()) == [
        "dataset.json", "quarantine.csv", "table.parquet.sealed",
    ]  # fmt: skip


def test_the_middle_slice_stands_for_a_patient(home: Path, tmp_path: Path) -> None:
    """Of a series of three the second one is the image, whatever the files are called."""
    import pydicom  # noqa: PLC0415  for images alone

    from fedmed.data.imaging import read_image  # noqa: PLC0415  likewise

    bay = bay_of("images", tmp_path / "raw")
    SiteAgent.open(home).register(deidentified(home, bay, tmp_path / "out"), bay.dataset)
    part = bay.dataset.schema.image
    assert part is not None
    middles = [path for path in sorted(bay.source.rglob("*.dcm")) if pydicom.dcmread(path).InstanceNumber == 2]
    expected = {read_image(path, part).astype(np.float32).tobytes() for path in middles}
    rows = np.concatenate([cohort.features for cohort in loaded(home, bay)])
    assert len(middles) == 12
    assert {row[1:].tobytes() for row in rows} == expected


def _second_study(bay: Bay, *, series: bool) -> None:
    """Give the first patient a second row, and a second series if asked."""
    import pydicom  # noqa: PLC0415  for images alone

    table = bay.source / "patients.csv"
    header, first, *others = table.read_text().splitlines()
    table.write_text("\n".join([header, first, first[:-1] + str(1 - int(first[-1])), *others]) + "\n")
    if series:
        path = bay.source / first.split(",")[1]
        scan = pydicom.dcmread(path)
        scan.SeriesInstanceUID += ".7"
        scan.SOPInstanceUID += ".7"
        scan.file_meta.MediaStorageSOPInstanceUID = scan.SOPInstanceUID
        scan.save_as(path.with_name("later.dcm"))


@pytest.mark.parametrize(("series", "rows"), [(False, 13), (True, 11)])
def test_nobody_guesses_which_series_a_row_is_about(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, series: bool, rows: int
) -> None:
    """Two visits and two scans, but nothing says which is whose: such rows are left out and counted, not mispaired."""
    bay = bay_of("images", tmp_path / "raw")
    _second_study(bay, series=series)
    out = deidentified(home, bay, tmp_path / "out")
    capsys.readouterr()
    description = out.with_suffix(".yaml")
    assert cli.site(["prepare", str(out), "--data", str(description), "--home", str(home)]) == 0
    assert ("2 rows have no image" in capsys.readouterr().out) is series
    cli.site(["check-data", str(out), "--data", str(description), "--home", str(home)])
    assert ("< 5 rows have no image" in capsys.readouterr().out) is series
    assert sum(len(cohort) for cohort in loaded(home, bay)) == rows


def _altered(out: Path, home: Path) -> None:
    item = sealed(out)[0]
    data = bytearray(item.read_bytes())
    data[-1] ^= 1
    item.write_bytes(data)


def _removed(out: Path, home: Path) -> None:
    sealed(out)[0].unlink()


def _exchanged(out: Path, home: Path) -> None:
    one, other = sealed(out)[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _foreign(out: Path, home: Path) -> None:
    shutil.copy(sealed(out)[0], out / "items" / "another.parquet.sealed")


def _linked(out: Path, home: Path) -> None:
    item = sealed(out)[0]
    item.rename(out / "aside")
    item.symlink_to(out / "aside")


def _manifest(out: Path, home: Path) -> None:
    path = out / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"outcome":"cleaned"', b'"outcome":"cleanEd"', 1))


def _moved(out: Path, home: Path) -> None:
    out.rename(out.with_name("elsewhere"))


def _line_of_an_item(out: Path, home: Path) -> None:
    lines = (home / "audit.jsonl").read_bytes().splitlines(keepends=True)
    at = next(place for place, line in enumerate(lines) if ITEM_KIND.encode() in line)
    (home / "audit.jsonl").write_bytes(b"".join(lines[:at] + lines[at + 1 :]))


def _last_line(out: Path, home: Path) -> None:
    lines = (home / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (home / "audit.jsonl").write_bytes(b"".join(lines[:-1]))


def _lines_reordered(out: Path, home: Path) -> None:
    lines = (home / "audit.jsonl").read_bytes().splitlines(keepends=True)
    (home / "audit.jsonl").write_bytes(b"".join([*lines[:-2], lines[-1], lines[-2]]))


def _registration(out: Path, home: Path) -> None:
    (home / "data" / "tiny" / "items.json").unlink()


def _a_line_without_a_chain(out: Path, home: Path) -> None:
    (home / "audit.jsonl").write_bytes(b"")


def sealed(out: Path) -> list[Path]:
    """Return the items of a folder."""
    return sorted(path for path in (out / "items").rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def two_tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bay, Path, Path]:
    """Return a site and a folder of two sealed tables, to be copied."""
    root = tmp_path_factory.mktemp("two-tables")
    assert cli.site(["init", "--home", str(root / "home"), "--name", "north"]) == 0
    bay = bay_of("table", root / "raw")
    write_table(bay.source / "more.csv", rows=30, seed=4)
    return bay, root / "home", deidentified(root / "home", bay, root / "out")


@pytest.mark.parametrize(
    "harm",
    [_altered, _removed, _exchanged, _foreign, _linked, _manifest, _moved, _line_of_an_item, _last_line,
     _lines_reordered, _registration, _a_line_without_a_chain],
)  # fmt: skip
def test_whatever_the_log_does_not_vouch_for_refuses_the_whole_data_set(
    two_tables: tuple[Bay, Path, Path], tmp_path: Path, harm: Any
) -> None:
    """An altered, missing, exchanged or foreign item, a changed manifest or log: one line, and not one record."""
    bay, home, out = two_tables[0], tmp_path / "home", tmp_path / "out"
    shutil.copytree(two_tables[1], home)
    shutil.copytree(two_tables[2], out)
    SiteAgent.open(home).register(out, bay.dataset)
    patient = Patient(home=SiteHome(home), secret=None)
    assert [finding.level for finding in doctor_site.data(patient)] == ["ok"]
    assert len(loaded(home, bay)[0]) > 0
    harm(out, home)
    with pytest.raises(FedMedError) as refused:
        loaded(home, bay)
    assert isinstance(refused.value, IntegrityError)
    assert "\n" not in str(refused.value)
    try:
        assert [finding.level for finding in doctor_site.data(patient)] == ["bad"]
    except IntegrityError:  # the log itself; the doctor shows that as a red line too
        assert harm in (_line_of_an_item, _lines_reordered)


def test_check_data_and_the_doctor_ask_the_log_too(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are content with what was recorded, and neither with an altered item."""
    bay = bay_of("table", tmp_path / "raw")
    out = deidentified(home, bay, tmp_path / "out")
    words = ["--data", str(out.with_suffix(".yaml")), "--home", str(home)]
    assert cli.site(["prepare", str(out), *words]) == 0
    assert "tiny: 60 rows in 1 items, each as recorded" in capsys.readouterr().out
    assert cli.site(["check-data", str(out), *words]) == 0
    assert "ready to be trained on" in capsys.readouterr().out
    datasets = SiteAgent.open(home).datasets
    assert datasets.verify("tiny").startswith("1 items as recorded")
    assert verify_site(SiteHome(home)).problems == ()
    _altered(out, home)
    with pytest.raises(IntegrityError, match="altered"):
        cli.site(["check-data", str(out), *words])
    with pytest.raises(IntegrityError, match="altered"):
        datasets.verify("tiny")
    assert "altered" in verify_site(SiteHome(home)).problems[0]


def test_a_table_of_another_schema_is_refused(home: Path, tmp_path: Path) -> None:
    """What was made under other columns may mean something else."""
    bay = bay_of("table", tmp_path / "raw")
    out = deidentified(home, bay, tmp_path / "out")
    other = replace(bay.dataset, schema=replace(bay.dataset.schema, clip=3.0))
    with pytest.raises(IntegrityError, match="not made under the schema tiny"):
        SiteAgent.open(home).register(out, other)
    assert not SiteAgent.open(home).datasets.holds("tiny")


def test_a_folder_without_a_table_of_the_data_set_is_refused(home: Path, tmp_path: Path) -> None:
    """A table that lacks a column is set aside by deidentify; then there is nothing to train on."""
    bay = bay_of("table", tmp_path / "raw")
    (bay.source / "patients.csv").write_text("record,ward\nMRN1,north\n")
    out = deidentified(home, bay, tmp_path / "out")
    with pytest.raises(DataError, match="holds no table made under its schema"):
        SiteAgent.open(home).register(out, bay.dataset)


def test_a_folder_that_was_cleaned_anew_is_prepared_anew(home: Path, tmp_path: Path) -> None:
    """Files that came after the data set was prepared are not slipped into it."""
    bay = bay_of("table", tmp_path / "raw")
    out = deidentified(home, bay, tmp_path / "out")
    SiteAgent.open(home).register(out, bay.dataset)
    write_table(bay.source / "more.csv", rows=30, seed=4)
    deidentified(home, bay, out)
    with pytest.raises(IntegrityError, match="prepare it again"):
        loaded(home, bay)
    SiteAgent.open(home).register(out, bay.dataset)
    assert sum(len(cohort) for cohort in loaded(home, bay)) == 90


def test_notes_are_clean_under_a_policy_that_drops_free_text(home: Path, tmp_path: Path) -> None:
    """JSON Lines are notes: their text is cleaned in any case, and another column of free text falls."""
    bay = bay_of("notes", tmp_path / "raw")
    remark = Column(name="remark", kind="text", role="free-text")
    dataset = replace(bay.dataset, schema=replace(bay.dataset.schema, columns=(*bay.dataset.schema.columns, remark)))
    path = bay.source / "notes.jsonl"
    path.write_text(path.read_text().replace("}", ', "remark": "seen by Anna Planted"}'))
    bay = replace(bay, dataset=dataset)
    opened = SiteAgent.open(home).register(deidentified(home, bay, tmp_path / "out"), dataset)
    assert set(opened.table.columns) == {"patient", "note", "ill"}
    notes = opened.table["note"].to_list()
    assert all(CANARY in note and "Smithson" not in note for note in notes)


def test_k_anonymity_of_a_policy_holds_for_a_data_set(home: Path, tmp_path: Path) -> None:
    """A preset with k takes the schema's quasi-identifiers up their ladders, and the types stay."""
    age = Column(
        name="age", kind="number", role="quasi-identifier", unit="years", centre=60.0, scale=15.0, low=0.0, high=120.0
    )
    schema = Schema(name="tiny", file="{site}.csv", columns=(KEY, age, ILL), targets=TARGET)
    source = tmp_path / "export"
    source.mkdir()
    rows = [f"MRN{i:05d},{30 + i % 40},{i % 2}" for i in range(200)]
    (source / "a.csv").write_text("\n".join(["record,age,ill", *rows]) + "\n")
    bay = Bay(DataSet(name="tiny", schema=schema, split=SPLIT), source, 200)
    description = tmp_path / "tiny.yaml"
    description.write_bytes(canonical_json(bay.dataset))
    words = ["deidentify", str(source), "--out", str(tmp_path / "out"), "--home", str(home), "--workers", "1"]
    assert cli.site([*words, "--policy", "pipl-strict", "--data", str(description)]) == 0
    table = SiteAgent.open(home).register(tmp_path / "out", bay.dataset).table
    assert table["age"].dtype == pl.Float64
    assert table.group_by("age").len()["len"].min() >= 5


def with_items(consortium: Consortium, root: Path, *more: str) -> None:
    """Let each site of a consortium train on a folder of items in the place of its prepared table."""
    for place, site in enumerate(consortium.homes):
        source = root / f"source-{place}"
        source.mkdir(parents=True)
        shutil.copy(consortium.root / f"h{place + 1}.csv", source / "patients.csv")
        out = deidentified(site, Bay(consortium.dataset, source, 0), root / f"out-{place}", *more)
        SiteAgent.open(site).register(out, consortium.dataset)


def test_two_rounds_from_sealed_items_end_where_exported_ones_do(tmp_path: Path) -> None:
    """Real agents, secure aggregation: the same model from sealed, exported and prepared data, and a harm ends it."""
    prepared = build_consortium(tmp_path / "prepared", sites=3, rows=60)
    sealing, exported = twin_of(prepared, tmp_path / "sealing"), twin_of(prepared, tmp_path / "exported")
    with_items(sealing, tmp_path / "of-sealing")
    with_items(exported, tmp_path / "of-exported", "--export")
    plan = prepared.plan(aggregation=SECURE, training=replace(prepared.plan().training, rounds=2))
    models = []
    for consortium in (prepared, sealing, exported):
        state = tmp_path / f"state-{consortium.root.name}"
        channel = MemoryChannel(consortium.homes, canonical_json(plan), entropy_of=SimulatedEntropy(7))
        result = consortium.runner(plan, state, channel=channel).run()
        assert (result.sites, result.rounds) == (("h1", "h2", "h3"), 2)
        models.append(load_knowledge(state).anchor.tobytes())
    assert models[0] == models[1] == models[2]
    assert {*readable_below(tmp_path / "of-sealing", but=tmp_path / "none")} == {"patients.csv"}  # the raw sources
    assert not list(readable_below(sealing.root / "sites", but=tmp_path / "none"))
    _altered(tmp_path / "of-sealing" / "out-1", sealing.homes[1])
    with pytest.raises(IntegrityError):
        SiteAgent.open(sealing.homes[1]).datasets.load(plan.data, "train")
