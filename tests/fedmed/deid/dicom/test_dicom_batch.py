"""A folder: nothing lost, nothing done twice, and a kill at any time costs only what was in flight."""

import csv
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset

from fedmed.audit import ChainLog
from fedmed.deid.dicom import DicomOptions, FolderReport, ItemOutcome, batch, clean_folder, item_path, locate
from fedmed.deid.dicom.batch import AUDIT_KIND, _Job, _run
from fedmed.deid.dicom.files import Quarantined
from fedmed.deid.dicom.manifest import ManifestLine, read_manifest
from fedmed.errors import IntegrityError, UsageError

Maker = Callable[..., Dataset]
Writer = Callable[..., bytes]
KEY = bytes(range(32))
GOOD, BAD = 6, {"note.txt": "not-part-10", "pdf.dcm": "encapsulated-document", "cut.dcm": "truncated"}
KILLED = """
import os, signal, sys
from pathlib import Path
from fedmed.audit import ChainLog
from fedmed.deid.dicom import DicomOptions, batch, clean_folder

batch.RECORDS_AT_ONCE = 3

if __name__ == "__main__":
    seen = []

    def stop(outcome):
        seen.append(outcome)
        if len(seen) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    root = Path(sys.argv[1])
    clean_folder(root / "in", root / "out", options=DicomOptions(), key=bytes(range(32)),
                 log=ChainLog(root / "audit.jsonl"), workers=2, on_item=stop)
"""


@pytest.fixture
def root(tmp_path: Path, make: Maker, written: Writer) -> Path:
    """Return a folder with six good files and three that cannot be cleaned, in folders with names of patients."""
    for number in range(GOOD):
        folder = tmp_path / "in" / f"Qxzfamily{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.dcm").write_bytes(written(make(SOPInstanceUID=f"1.2.999.1.{number}")))
    (tmp_path / "in" / "note.txt").write_bytes(b"Qxzfamily was here" * 20)
    (tmp_path / "in" / "cut.dcm").write_bytes(written(make())[:-10])
    document = make("1.2.840.10008.5.1.4.1.1.104.1", pixels=False, EncapsulatedDocument=b"%PDF Qxz")
    (tmp_path / "in" / "pdf.dcm").write_bytes(written(document))
    return tmp_path


def run(root: Path, **changes: object) -> FolderReport:
    """Clean `root/in` into `root/out`."""
    wanted: dict[str, object] = {"options": DicomOptions(), "key": KEY, "log": ChainLog(root / "audit.jsonl")}
    return clean_folder(root / "in", root / "out", **(wanted | changes))  # type: ignore[arg-type]


def outputs(root: Path) -> dict[str, bytes]:
    """Return the cleaned files by name."""
    return {path.name: path.read_bytes() for path in (root / "out" / "items").rglob("*") if path.is_file()}


def test_every_file_is_cleaned_or_quarantined_and_audited_once(root: Path):
    """Nothing is lost, every item has one record in log and manifest, and no name of a patient is anywhere."""
    heard: list[ItemOutcome] = []
    report = run(root, workers=2, on_item=heard.append)
    assert (report.cleaned, report.skipped, report.files) == (GOOD, 0, GOOD + len(BAD))
    assert report.quarantined == dict.fromkeys(BAD.values(), 1)
    entries = [entry for entry in ChainLog(root / "audit.jsonl").entries() if entry.kind == AUDIT_KIND]
    lines = list(read_manifest(root / "out" / "manifest.jsonl"))
    items = {outcome.item for outcome in heard}
    assert {entry.body["item"] for entry in entries} == {line.item for line in lines} == items
    assert len(entries) == len(lines) == len(items) == report.files
    assert len(outputs(root)) == GOOD
    text = (root / "audit.jsonl").read_text() + (root / "out" / "manifest.jsonl").read_text() + repr(heard)
    names = "".join(str(path) for path in (root / "out").rglob("*"))
    for output in (text + names, *(data.decode("latin-1") for data in outputs(root).values())):
        assert "qxz" not in output.casefold()


class Counted(ChainLog):
    """A log that counts how often it is written to, each of which reads it whole."""

    writes = 0

    def append(self, *facts: Any) -> Any:
        """Count one write."""
        self.writes += 1
        return super().append(*facts)

    def append_all(self, *facts: Any) -> Any:
        """Count one write."""
        self.writes += 1
        return super().append_all(*facts)


def test_records_go_to_the_log_several_at_a_time(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Nine files in records of four are three writes of the log, and the manifest has a line for each file."""
    monkeypatch.setattr(batch, "RECORDS_AT_ONCE", 4)
    log = Counted(root / "audit.jsonl")
    report = run(root, log=log)
    assert (report.files, log.writes) == (GOOD + len(BAD), 3)
    assert len(list(read_manifest(root / "out" / "manifest.jsonl"))) == report.files


def test_what_came_before_an_interruption_is_recorded(root: Path, monkeypatch: pytest.MonkeyPatch):
    """An exception while files are cleaned leaves a record of each that was done: the next run skips them."""

    def fail(outcome: ItemOutcome) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(batch, "RECORDS_AT_ONCE", 4)
    with pytest.raises(KeyboardInterrupt):
        run(root, on_item=fail)
    recorded = len(list(read_manifest(root / "out" / "manifest.jsonl")))
    assert recorded >= 4
    assert run(root).skipped == recorded


def test_the_quarantine_list_leads_back_to_the_files_at_the_site(root: Path):
    """The list names items by keyed names only; with the key the site finds the path."""
    run(root)
    with (root / "out" / "quarantine.csv").open(newline="") as file:
        listed = {row["item"]: row["reason"] for row in csv.DictReader(file)}
    paths = locate(root / "in", listed, KEY)
    assert {paths[item].name: reason for item, reason in listed.items()} == BAD
    assert locate(root / "in", listed, bytes(32)) == {}


def test_a_second_run_skips_what_is_vouched_for(root: Path):
    """Same input, options, table and key: nothing is written, nothing is audited again."""
    run(root)
    before, entries = outputs(root), len(ChainLog(root / "audit.jsonl").entries())
    report = run(root)
    assert (report.cleaned, report.quarantined, report.skipped) == (0, {}, GOOD + len(BAD))
    assert outputs(root) == before
    assert len(ChainLog(root / "audit.jsonl").entries()) == entries
    with (root / "out" / "quarantine.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(BAD)


def test_a_change_of_input_output_options_or_log_does_the_item_again(root: Path, make: Maker, written: Writer):
    """What is not exactly what the records vouch for is cleaned anew; an output that may no longer be is removed."""
    run(root)
    items = [name.removesuffix(".dcm") for name in outputs(root)]
    names = {path: item for item, path in locate(root / "in", items, KEY).items()}
    first, second, third = sorted(names)[:3]
    first.write_bytes(written(make(SOPInstanceUID="1.2.999.77")))
    damaged = item_path(root / "out", names[second])
    damaged.write_bytes(b"damaged")
    third.write_bytes(written(make(BurnedInAnnotation="YES")))
    report = run(root)
    assert (report.cleaned, report.quarantined) == (2, {"burned-in": 1})
    assert damaged.read_bytes()[128:132] == b"DICM"
    assert not item_path(root / "out", names[third]).exists()
    assert run(root, options=DicomOptions(dates="keep")).skipped == 0
    assert run(root, options=DicomOptions(dates="keep"), log=ChainLog(root / "other.jsonl")).skipped == 0


@pytest.mark.slow
def test_a_killed_run_is_resumed(root: Path):
    """A3: after SIGKILL no partial file is left, and the next run ends as an undisturbed one does."""
    whole = root / "whole"
    shutil.copytree(root / "in", whole / "in")
    run(whole)
    script = root / "killed.py"
    script.write_text(KILLED)
    ended = subprocess.run([sys.executable, script, root], check=False, capture_output=True)  # noqa: S603  our own script
    assert ended.returncode == -signal.SIGKILL
    assert len(list(read_manifest(root / "out" / "manifest.jsonl"))) == 3
    torn = root / "out" / "items" / "00"
    torn.mkdir(exist_ok=True)
    (torn / ".half.dcm.x").write_bytes(b"half")
    with (root / "out" / "manifest.jsonl").open("ab") as file:
        file.write(b'{"item":"torn')
    report = run(root)
    assert report.skipped == 3
    assert report.files == GOOD + len(BAD)
    assert outputs(root) == outputs(whole)
    assert {line.item for line in read_manifest(root / "out" / "manifest.jsonl")} == {
        line.item for line in read_manifest(whole / "out" / "manifest.jsonl")
    }


@pytest.mark.slow
def test_a_worker_that_dies_costs_nothing(root: Path, monkeypatch: pytest.MonkeyPatch):
    """When a process of the pool is killed, what it held is cleaned by another one."""
    monkeypatch.setattr(batch, "RECORDS_AT_ONCE", 1)
    killed: list[int] = []

    def kill_one(outcome: ItemOutcome) -> None:
        if not killed and (children := multiprocessing.active_children()):
            killed.append(children[0].pid or 0)
            os.kill(killed[0], signal.SIGKILL)

    report = run(root, on_item=kill_one)
    assert killed
    assert (report.cleaned, report.files) == (GOOD, GOOD + len(BAD))


class Bomb:
    """A path that ends whatever process unpickles it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        """Return what a worker runs to receive this object."""
        return os._exit, (1,)


def test_a_file_that_crashes_its_process_is_quarantined(tmp_path: Path):
    """A decoder that takes its process down takes one file down, not the run."""
    (tmp_path / "text").write_bytes(b"no DICOM")
    bomb = _Job("0" * 32, Bomb(), tmp_path / "bomb.dcm", None)  # type: ignore[arg-type]
    text = _Job("1" * 32, tmp_path / "text", tmp_path / "text.dcm", None)
    results = dict(_run(iter([bomb, text]), DicomOptions(), KEY, 1))
    reasons = [result.reason for result in results.values() if isinstance(result, Quarantined)]
    assert reasons == ["crashed", "not-part-10"]


def test_folders_inside_each_other_and_missing_ones_are_refused(root: Path):
    """An output inside the source would be read as input by the next run."""
    for source, out in ((root / "in", root / "in" / "out"), (root / "in", root), (root / "absent", root / "out")):
        with pytest.raises(UsageError):
            clean_folder(source, out, options=DicomOptions(), key=KEY, log=ChainLog(root / "audit.jsonl"))
    with pytest.raises(UsageError, match="workers"):
        run(root, workers=0)


def test_a_manifest_that_was_tampered_with_is_refused_or_not_believed(root: Path):
    """A line that is none raises; a line that the audit log does not know is done again."""
    run(root)
    path = root / "out" / "manifest.jsonl"
    lines = path.read_bytes()
    path.write_bytes(lines.replace(b'"outcome":"quarantined"', b'"outcome":"cleaned"', 1))
    assert run(root).skipped == GOOD + len(BAD) - 1
    path.write_bytes(b"no manifest\n")
    with pytest.raises(IntegrityError):
        run(root)


def test_links_and_odd_names_are_not_lost(root: Path):
    """A link, also to a folder, is an item that is quarantined; names that differ in case are two items."""
    (root / "in" / "link").symlink_to(root / "in" / "Qxzfamily0")
    shutil.copy(root / "in" / "Qxzfamily0" / "0.dcm", root / "in" / "A.dcm")
    shutil.copy(root / "in" / "Qxzfamily0" / "0.dcm", root / "in" / "a.dcm")
    report = run(root)
    assert report.quarantined["unreadable"] == 1
    assert len(outputs(root)) == report.cleaned == GOOD + 2


def test_an_error_of_writing_stops_the_run_and_the_next_one_goes_on(root: Path):
    """A3: a folder that cannot be written to raises here; what was done stays done."""
    run(root)
    for path in (root / "out" / "items").iterdir():
        shutil.rmtree(path)
    log = ChainLog(root / "audit.jsonl")

    class Full(ChainLog):
        def append_all(self, facts: object) -> object:  # type: ignore[override]
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        run(root, log=Full(root / "audit.jsonl"))
    assert run(root, log=log).files == GOOD + len(BAD)
    assert len(outputs(root)) == GOOD


def test_a_manifest_line_is_a_record_with_a_version():
    """The stored form begins with what it is."""
    line = ManifestLine(item="0" * 32, outcome="cleaned", reason="", input_hmac="a", output_sha256="b",
                        options_digest="c", table_digest="d", key_id="e", tool_version="f")  # fmt: skip
    assert line.version == 1
    assert replace(line, reason="x") != line
