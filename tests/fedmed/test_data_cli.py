"""`fedmed data list` names each data set with its licence and files, and says what of them a folder has."""

import json
from pathlib import Path

import pytest
import yaml

from fedmed.config import config_dir
from fedmed.data.catalogue import entry_of, look_for
from fedmed.data.schema import DataSet
from fedmed.data_cli import data
from fedmed.errors import DataError, UsageError
from fedmed.records import build

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def shipped(name: str) -> DataSet:
    """Return a data set that ships."""
    return build(yaml.safe_load((config_dir() / f"data/{name}.yaml").read_text(encoding="utf-8")), DataSet)


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    """Return the list as JSON, by option."""
    assert data(["list", "--json", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == 1
    return {one["option"]: one for one in found["data_sets"]}


def touched(folder: Path, *names: str) -> Path:
    """Make empty files."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_every_data_set_that_ships_is_listed_with_its_terms(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever reads the list learns of each licence, origin, way to get it, and file; no folder, no finding."""
    found = listed(capsys)
    assert set(found) == {path.stem for path in (config_dir() / "data").glob("*.yaml")}
    for one in found.values():
        assert all(one[key] for key in ("licence", "source", "obtain", "files", "form", "targets"))
        assert one["here"] is None
    assert found["eicu"]["licence"] == "ODbL 1.0 (attribution, share-alike)"
    assert found["heart_disease"]["files"] == [
        f"processed.{site}.data" for site in ("cleveland", "hungarian", "switzerland", "va")
    ]


def test_a_person_reads_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each data set is a few lines; what lacks is named, and what is complete says what to type."""
    touched(tmp_path / "ist", "stroke.csv.gz")
    touched(tmp_path / "trials", "train.txt.gz", "dev.txt.gz")
    assert data(["list", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"here      yes: data.root={tmp_path / 'ist'}" in shown
    assert f"here      in part, in {tmp_path / 'trials'}; missing: test.txt.gz" in shown
    assert "here      no" in shown
    assert "licence   ODC-By 1.0" in shown


def test_files_are_found_in_the_folder_or_one_below(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that has most of a data set's files is the one that is named."""
    files = ("patient.csv.gz", "hospital.csv.gz", "apacheapsvar.csv.gz", "apachepredvar.csv.gz")
    touched(tmp_path, "patient.csv.gz")
    whole = touched(tmp_path / "eicu", *files)
    here = listed(capsys, str(tmp_path))["eicu"]["here"]
    assert here == {"complete": True, "folder": str(whole), "missing": []}
    (whole / "hospital.csv.gz").unlink()
    assert look_for(shipped("eicu"), whole).missing == ("hospital.csv.gz",)


def test_the_tables_of_the_sites_are_as_good_as_the_publishers_file(tmp_path: Path) -> None:
    """A run starts from divided tables as well, so their folder is complete; synthetic sites have any name."""
    trial = shipped("stroke_trial")
    tables = touched(tmp_path / "divided", *(f"{site}.csv" for site in trial.schema.sites))
    assert look_for(trial, tmp_path).folder == tables
    assert look_for(trial, tmp_path).complete
    (tables / "UK.csv").unlink()
    assert look_for(trial, tmp_path).missing == ("UK.csv",)
    touched(tmp_path / "hospital", "patients.csv")
    assert look_for(shipped("synthetic"), tmp_path).complete


def test_a_folder_without_any_of_the_files_has_nothing(tmp_path: Path) -> None:
    """Nothing found is said as that, with all that is expected; a path that is no folder is an error."""
    presence = look_for(shipped("cmedtc"), tmp_path)
    assert (presence.folder, presence.complete) == (None, False)
    assert presence.missing == entry_of("cmedtc", shipped("cmedtc")).files
    with pytest.raises(DataError, match="expected a folder with data, found none"):
        look_for(shipped("cmedtc"), tmp_path / "nowhere")


def test_a_mistake_is_one_line() -> None:
    """An unknown command or option says what to read."""
    with pytest.raises(UsageError, match="see fedmed data --help"):
        data(["lists"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_the_files_of_the_tests_are_all_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Every published data set that tests read is complete where they read it."""
    found = listed(capsys, str(SHARED))
    complete = {name for name, one in found.items() if one["here"]["complete"]}  # type: ignore[index]
    assert complete == set(found) - {"synthetic", "medmnist"}  # what is generated, and what a test writes
