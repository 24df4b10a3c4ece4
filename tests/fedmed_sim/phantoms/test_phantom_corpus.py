"""A mixed corpus: every file accounted for, the truths outside, the same for the same seed."""

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmed.errors import UsageError
from fedmed_sim.phantoms.corpus import CorpusSummary, Mixture, write_corpus
from fedmed_sim.phantoms.corruption import TEXT_WAYS, WAYS, corrupt


def lines_of(manifest: Path) -> list[dict[str, Any]]:
    """Return the manifest's lines."""
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], CorpusSummary]:
    """A corpus of 200 files, a tenth of them broken: the folder, the manifest's lines, the summary."""
    root = tmp_path_factory.mktemp("corpus")
    summary = write_corpus(root / "in", root / "truth.jsonl", seed=1, files=200, corrupt_fraction=0.1)
    return root / "in", lines_of(root / "truth.jsonl"), summary


def test_the_manifest_names_every_file_once(corpus):  # noqa: ANN001  a fixture
    """Files and lines correspond one to one, with size and digest of the bytes on disk."""
    folder, lines, summary = corpus
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert on_disk == {line["path"] for line in lines}
    assert len(lines) == 200 == summary.files
    for line in lines:
        payload = (folder / line["path"]).read_bytes()
        assert (len(payload), hashlib.sha256(payload).hexdigest()) == (line["bytes"], line["sha256"])


def test_the_number_of_broken_files_is_exact(corpus):  # noqa: ANN001  a fixture
    """A tenth of the files is broken, in many ways, and the summary counts what the manifest says."""
    _, lines, summary = corpus
    ways = Counter(line["corrupt"] for line in lines if line["corrupt"])
    assert sum(ways.values()) == 20 == summary.corrupt
    assert ways == summary.by_way
    assert len(ways) >= 6
    assert Counter(line["kind"] for line in lines) == summary.by_kind


def test_all_formats_occur(corpus):  # noqa: ANN001  a fixture
    """DICOM, CSV, TXT and JSONL are mixed; NIfTI is where it is asked for."""
    _, lines, _ = corpus
    assert {Path(line["path"]).suffix for line in lines} == set(WAYS) - {".nii", ".gz", ".json"}


def test_notes_on_disk_are_those_of_the_gold(corpus):  # noqa: ANN001  a fixture
    """A sound TXT file decodes to its gold text; a JSONL file holds the texts and none of the gold."""
    folder, lines, _ = corpus
    for line in lines:
        payload = (folder / line["path"]).read_bytes()
        if line["corrupt"]:
            continue
        if line["kind"] == "TXT":
            assert payload.decode(line["encoding"]) == line["notes"][0]["text"]
        elif line["kind"] == "JSONL":
            rows = [json.loads(row) for row in payload.decode("utf-8").splitlines()]
            assert [row["text"] for row in rows] == [note["text"] for note in line["notes"]]
            assert all(set(row) == {"id", "patient", "text"} for row in rows)


def test_a_patient_key_is_one_patient(corpus):  # noqa: ANN001  a fixture
    """Notes under one key give one e-mail address, over all files."""
    _, lines, _ = corpus
    for kind in ("TXT", "JSONL"):
        found: dict[str, set[str]] = {}
        for line in lines:
            for note in line.get("notes", []) if line["kind"] == kind else []:
                emails = {
                    note["text"][item["start"] : item["end"]].lower().replace("\n", "")
                    for item in note["entities"]
                    if item["kind"] == "EMAIL"
                }
                found.setdefault(note["patient"], set()).update(emails)
        assert all(len(emails) <= 1 for emails in found.values())


def test_broken_text_files_do_not_decode(corpus):  # noqa: ANN001  a fixture
    """A broken CSV or TXT file is neither UTF-8 nor GB18030."""
    folder, lines, _ = corpus
    broken = [line for line in lines if line["corrupt"] in TEXT_WAYS]
    assert broken
    for line in broken:
        payload = (folder / line["path"]).read_bytes()
        for encoding in ("utf-8", "gb18030"):
            with pytest.raises(UnicodeDecodeError):
                payload.decode(encoding)


def test_broken_json_lines_do_not_parse():
    """Each line of a broken JSONL file is refused by a parser."""
    payload = b'{"id": "n0", "text": "a"}\n{"id": "n1", "text": "b"}\n'
    broken = corrupt(np.random.default_rng(1), payload, suffix=".jsonl", way="broken-json")
    for line in broken.decode("utf-8").splitlines():
        with pytest.raises(ValueError):  # noqa: PT011  json says no more
            json.loads(line)


def test_the_same_seed_gives_the_same_corpus(tmp_path: Path):
    """Manifests, and so all digests, are equal for one seed and differ for another."""
    made = []
    for at, seed in enumerate((7, 7, 8)):
        write_corpus(tmp_path / f"in{at}", tmp_path / f"{at}.jsonl", seed=seed, files=40, corrupt_fraction=0.2)
        made.append((tmp_path / f"{at}.jsonl").read_bytes())
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_a_mixture_can_leave_kinds_out(tmp_path: Path):
    """A weight of 0 means none."""
    mixture = Mixture(dicom=0, csv=0, txt=1, jsonl=0)
    summary = write_corpus(tmp_path / "in", tmp_path / "t.jsonl", seed=1, files=20, mixture=mixture)
    assert summary.by_kind == {"TXT": 20}


def test_the_truths_never_lie_in_the_folder(tmp_path: Path):
    """A manifest inside the folder, a folder with files, and silly numbers are refused before anything is written."""
    with pytest.raises(UsageError, match="outside"):
        write_corpus(tmp_path / "in", tmp_path / "in" / "t.jsonl", seed=1, files=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("a")
    with pytest.raises(UsageError, match="empty folder"):
        write_corpus(tmp_path / "full", tmp_path / "t.jsonl", seed=1, files=5)
    with pytest.raises(UsageError, match="fraction"):
        write_corpus(tmp_path / "in", tmp_path / "t.jsonl", seed=1, files=5, corrupt_fraction=1.5)
    with pytest.raises(UsageError, match="weights"):
        Mixture(dicom=-1)
    assert not (tmp_path / "in").exists()
    assert not (tmp_path / "t.jsonl").exists()


def test_an_unknown_way_is_refused():
    """A suffix or a way that is not there raises."""
    for suffix, way in ((".dcm", "melted"), (".docx", "empty")):
        with pytest.raises(UsageError, match="expected one of"):
            corrupt(np.random.default_rng(1), b"", suffix=suffix, way=way)
