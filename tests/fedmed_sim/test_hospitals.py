"""Synthetic hospitals: real in form, known in every identifier, and two studies that fight."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from fedmed.audit import ChainLog
from fedmed.data.schema import DataSet, locate, sites_under
from fedmed.data.source import View
from fedmed.data.tabular import TabularSource
from fedmed.deid import DeidPolicy, DeidReport, deidentify_table
from fedmed.errors import UsageError
from fedmed.records import build
from fedmed_sim.hospitals import WARDS, HospitalTruth, write_hospitals

CONF = Path(__file__).parents[2] / "conf" / "data" / "synthetic.yaml"
KEY = bytes(range(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospitals:
    """Four hospitals with the default sizes, raw and de-identified."""

    folder: Path
    dataset: DataSet
    truths: tuple[HospitalTruth, ...]
    reports: dict[str, DeidReport]
    sources: dict[str, TabularSource]

    def pooled(self, split: str, *wards: str) -> tuple[np.ndarray, np.ndarray]:
        """Return features and labels of all sites for these wards."""
        view = View(target="readmitted_30d", cohort_column="ward", cohort=wards)
        cohorts = [source.load(view, split) for source in self.sources.values()]
        return np.concatenate([c.features for c in cohorts]), np.concatenate([c.labels for c in cohorts])


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    """Return four hospitals of the default size."""
    return _federation(tmp_path_factory.mktemp("hospitals"), patients=1400)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    """Return four small hospitals, for exhaustive searches."""
    return _federation(tmp_path_factory.mktemp("small"), patients=200)


def _federation(folder: Path, *, patients: int) -> Hospitals:
    dataset = build(yaml.safe_load(CONF.read_text(encoding="utf-8")), DataSet)
    truths = write_hospitals(folder / "raw", patients_per_site=patients)
    reports, sources = {}, {}
    for site in sites_under(folder / "raw", dataset.schema):
        out, log = folder / "sites" / site, ChainLog(folder / f"{site}.jsonl")
        raw = locate(folder / "raw", dataset.schema, site)
        reports[site] = deidentify_table(raw, schema=dataset.schema, policy=DeidPolicy(), key=KEY, out_dir=out, log=log)
        sources[site] = TabularSource(out, schema=dataset.schema, split=dataset.split, log=log, site=site)
    return Hospitals(folder=folder, dataset=dataset, truths=truths, reports=reports, sources=sources)


def _raw(truth: HospitalTruth) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(truth.file.read_bytes().decode(truth.encoding), newline="")))


def test_files_are_equal_bytes_for_equal_seeds(tmp_path: Path):
    """The seed decides every byte, and another seed other ones."""
    runs = [
        write_hospitals(tmp_path / name, sites=2, patients_per_site=60, seed=s)
        for name, s in zip("abc", [3, 3, 4], strict=True)
    ]
    one, same, other = ([truth.file.read_bytes() for truth in truths] for truths in runs)
    assert one == same
    assert all(a != b for a, b in zip(one, other, strict=True))


def test_a_hospital_is_one_file_in_its_own_encoding(hospitals: Hospitals):
    """site-NN/patients.csv, the second of them GB18030, all with the columns of the schema."""
    assert [truth.site for truth in hospitals.truths] == ["site-01", "site-02", "site-03", "site-04"]
    assert [truth.encoding for truth in hospitals.truths] == ["utf-8", "gb18030", "utf-8", "utf-8"]
    with pytest.raises(UnicodeDecodeError):
        hospitals.truths[1].file.read_bytes().decode("utf-8")
    for truth in hospitals.truths:
        rows = _raw(truth)
        assert len(rows) == truth.rows
        assert set(rows[0]) == {column.name for column in hospitals.dataset.schema.columns}


def test_resident_ids_are_valid(hospitals: Hospitals):
    """18 characters, the unassigned region 99, the birth date, a parity that says the sex, and MOD 11-2."""
    for row in _raw(hospitals.truths[0]):
        number = row["resident_id"]
        assert len(number) == 18
        assert number.startswith("99")
        assert number[6:14] == row["birth_date"].replace("-", "")
        assert (int(number[16]) % 2 == 1) == (row["sex"] == "M")
        total = sum((2 ** (17 - i)) * (10 if c == "X" else int(c)) for i, c in enumerate(number))
        assert total % 11 == 1


def test_age_fits_birth_and_admission(hospitals: Hospitals):
    """The age is that on the day of admission, and somebody is above 89."""
    ages = []
    for row in _raw(hospitals.truths[0]):
        year, rest = int(row["admission_date"][:4]), row["admission_date"][5:]
        assert int(row["age"]) == year - int(row["birth_date"][:4]) - (rest < row["birth_date"][5:])
        ages.append(int(row["age"]))
    assert max(ages) > 89


def test_every_planted_identifier_is_in_the_raw_file(small: Hospitals):
    """The truth lists what was written, so a search for it means something; remarks hold many of them."""
    for truth in small.truths:
        text = truth.file.read_bytes().decode(truth.encoding)
        assert all(identifier in text for identifier in truth.identifiers())
        assert set(truth.planted) == {
            "name", "name_en", "resident_id", "phone", "address", "medical_record_number", "birth_date",
        }  # fmt: skip
        remarks = [row["remarks"] for row in _raw(truth)]
        people = [(row["name"], row["name_en"], row["phone"]) for row in _raw(truth)]
        named = sum(any(part in remark for part in who) for remark, who in zip(remarks, people, strict=True))
        assert named > len(remarks) / 4


def test_no_planted_identifier_survives_deidentification(small: Hospitals):
    """Searched in every output byte, in the decoded tables and in the logs, in both encodings."""
    for truth in small.truths:
        out = small.folder / "sites" / truth.site
        written = [path.read_bytes() for path in [*out.iterdir(), small.folder / f"{truth.site}.jsonl"]]
        table = pl.read_parquet(out / "table.parquet").drop("admission_date")
        everything = b"\n".join([*written, table.write_csv().encode(), repr(small.reports[truth.site]).encode()])
        for encoding in ("utf-8", "gb18030"):
            assert not any(identifier.encode(encoding) in everything for identifier in truth.identifiers())


def test_admission_dates_are_shifted(hospitals: Hospitals):
    """No admission stays on its day, in either way of writing dates."""
    for truth, pattern in zip(hospitals.truths[:2], ("%Y-%m-%d", "%Y年%m月%d日"), strict=True):
        table = pl.read_parquet(hospitals.folder / "sites" / truth.site / "table.parquet")
        raw = [row["admission_date"] for row in _raw(truth) if row["creatinine"] != "溶血"]
        shifted = [day.strftime(pattern) for day in table["admission_date"]]
        assert all(before != after for before, after in zip(raw, shifted, strict=True))


def test_only_rows_with_unreadable_values_are_quarantined(hospitals: Hospitals):
    """The schema fits the generator: nothing else is lost, and a few haemolysed samples are."""
    for truth in hospitals.truths:
        report = hospitals.reports[truth.site]
        assert set(report.quarantined) == {"creatinine"}
        assert 0 < report.rows_quarantined < 0.01 * truth.rows
        assert report.rows_kept == truth.rows - report.rows_quarantined
        assert report.dates_removed == 0


def test_second_admissions_get_the_token_of_the_first(hospitals: Hospitals):
    """Record numbers are written in several ways; there are as many tokens as patients, but for quarantined ones."""
    for truth in hospitals.truths:
        table = pl.read_parquet(hospitals.folder / "sites" / truth.site / "table.parquet")
        assert truth.rows > truth.patients
        lost = hospitals.reports[truth.site].rows_quarantined
        assert truth.patients - lost <= table["patient"].n_unique() <= truth.patients


def test_case_mix_differs_by_site(hospitals: Hospitals):
    """The share of the cardiology ward rises from site to site."""
    shares = []
    for truth in hospitals.truths:
        wards = pl.read_parquet(hospitals.folder / "sites" / truth.site / "table.parquet")["ward"]
        shares.append((wards == WARDS[0]).mean())
    assert shares == sorted(shares)
    assert shares[-1] - shares[0] > 0.2


def test_the_second_study_makes_a_linear_model_forget_the_first(hospitals: Hospitals):
    """Study 1 alone is learnt, study 2 alone unlearns it, and one linear model for both keeps most of it."""
    first, second = WARDS
    models = {
        wards: LogisticRegression().fit(*hospitals.pooled("train", *wards)) for wards in ((first,), (second,), WARDS)
    }
    on_first = {wards: model.score(*hospitals.pooled("test", first)) for wards, model in models.items()}
    on_second = {wards: model.score(*hospitals.pooled("test", second)) for wards, model in models.items()}
    assert 0.80 <= on_first[(first,)] <= 0.88
    assert 0.80 <= on_second[(second,)] <= 0.88
    assert on_first[(first,)] - on_first[(second,)] >= 0.10
    assert on_first[WARDS] >= 0.75
    assert on_second[WARDS] >= 0.72


@pytest.mark.parametrize("wrong", [{"sites": 0}, {"patients_per_site": 10}])
def test_too_small_a_federation_is_refused(tmp_path: Path, wrong: dict[str, int]):
    """Before anything is written."""
    with pytest.raises(UsageError, match="expected sites >= 1 and patients_per_site >= 50"):
        write_hospitals(tmp_path / "raw", **wrong)
    assert not (tmp_path / "raw").exists()
