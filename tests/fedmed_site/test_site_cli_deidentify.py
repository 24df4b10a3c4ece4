"""`fedmed site deidentify` on mixed folders: every file out or quarantined, nothing planted anywhere."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from fedmed.audit import ChainLog
from fedmed.crypto.seal import WrappedKey, unwrap_by_site
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.errors import UsageError
from fedmed.records import decode
from fedmed_sim.phantoms.corpus import Mixture, write_corpus
from fedmed_site import cli
from fedmed_site.deidentification_formats import REASONS
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEM_KIND, item_name

POLICY_REASONS = {
    "encapsulated-document", "secondary-capture", "ultrasound-without-regions", "burned-in", "screen-capture",
    "pixels-unassessed",
}  # fmt: skip
"""Reasons for which a sound file is set aside by the policy, not for its bytes."""
RUN = "import sys; from fedmed_site.cli import site\nif __name__ == '__main__': sys.exit(site(sys.argv[1:]))"


@dataclass(frozen=True)
class Cleaned:
    """A corpus that was de-identified once, readable; tests only read it or work on copies."""

    source: Path
    truths: list[dict]
    home: Path
    out: Path
    columns: Path
    printed: str

    def records(self) -> dict[str, dict]:
        """Return the audit record of each file, by its path below the source."""
        pseudonyms = Pseudonyms(SiteHome.open(self.home).pseudonym_key_path.read_bytes())
        bodies = {
            entry.body["item"]: entry.body
            for entry in ChainLog(self.home / "audit.jsonl").entries()
            if entry.kind == ITEM_KIND
        }
        return {truth["path"]: bodies[item_name(truth["path"], pseudonyms)] for truth in self.truths}


def make_home(path: Path) -> Path:
    """Make a site through its command."""
    assert cli.site(["init", "--home", str(path), "--name", "north"]) == 0
    return path


def clean(source: Path, out: Path, home: Path, *more: str, policy: str = "research-longitudinal") -> int:
    """Run the command with one worker."""
    words = ["deidentify", str(source), "--out", str(out), "--home", str(home), "--policy", policy, "--workers", "1"]
    return cli.site([*words, *more])


def corpus(folder: Path, *, seed: int, files: int, mixture: Mixture | None = None) -> list[dict]:
    """Write a corpus with every fifth file broken and return its truths."""
    manifest = folder.parent / f"{folder.name}.jsonl"
    write_corpus(folder, manifest, seed=seed, files=files, corrupt_fraction=0.2, mixture=mixture)
    return [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Cleaned:
    """Return a corpus of 40 mixed files after one readable run."""
    root = tmp_path_factory.mktemp("cleaned")
    source, out = root / "source", root / "out"
    truths = corpus(source, seed=77, files=40)
    home = make_home(root / "home")
    with pytest.raises(UsageError, match="columns"):
        clean(source, out, home, "--export")
    columns = out / "columns.yaml"
    assert columns.is_file()
    run = subprocess.run(  # noqa: S603  our own interpreter
        [
            sys.executable, "-c", RUN, "deidentify", str(source), "--out", str(out), "--home", str(home),
            "--policy", "research-longitudinal", "--columns", str(columns), "--export", "--workers", "2",
        ],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Cleaned(source=source, truths=truths, home=home, out=out, columns=columns, printed=run.stdout + run.stderr)


def test_every_sound_file_is_out_and_every_broken_one_quarantined(cleaned: Cleaned):
    """No file is lost: a sound one is cleaned or set aside by the policy, a broken one is quarantined with a reason."""
    records = cleaned.records()
    assert len(records) == len(cleaned.truths) == 40
    for truth in cleaned.truths:
        record = records[truth["path"]]
        if truth["corrupt"]:
            assert record["outcome"] == "quarantined", (truth["path"], truth["corrupt"])
            assert record["reason"] in REASONS
        else:
            assert record["outcome"] == "cleaned" or record["reason"] in POLICY_REASONS, (truth["path"], record)


def test_nothing_planted_is_in_any_record_report_or_printed_line(cleaned: Cleaned):
    """No identifier of any file, notes included, is in the audit log, manifest, reports, site log or output lines."""
    told = b"\n".join(
        [cleaned.printed.encode()]
        + [(cleaned.home / name).read_bytes() for name in ("audit.jsonl", "site.log") if (cleaned.home / name).exists()]
        + [(cleaned.out / name).read_bytes() for name in ("manifest.json", "report.json", "report.html", "batch.json")]
    )
    for secret in secrets(cleaned.truths, notes=True):
        assert secret.encode() not in told, secret


def test_nothing_planted_is_in_an_output_of_dicom_or_tables(cleaned: Cleaned):
    """No identifier of a DICOM file or table is in any output byte (notes are measured by their own recall)."""
    outputs = b"\n".join(data for name, data in files_below(cleaned.out / "items").items() if not name.endswith("txt"))
    for secret in secrets([truth for truth in cleaned.truths if truth["kind"] not in {"TXT", "JSONL"}], notes=False):
        assert secret.encode() not in outputs, secret


def secrets(truths: list[dict], *, notes: bool) -> set[str]:
    """Return the planted texts that are long enough not to occur by chance."""
    texts = {item["text"] for truth in truths for item in truth["secrets"] if "text" in item and item["kind"] != "DATE"}
    if notes:
        for truth in truths:
            for note in truth.get("notes", []):
                texts |= {note["text"][one["start"] : one["end"]] for one in note["entities"] if one["kind"] != "DATE"}
    return {text for text in texts if len(text) >= (3 if not text.isascii() else 6)}


def test_a_second_run_changes_nothing(cleaned: Cleaned, tmp_path: Path):
    """What is done is skipped: no output, manifest or audit entry changes."""
    home, out = copied(cleaned, tmp_path)
    before = files_below(out / "items"), (out / "manifest.json").read_bytes(), (home / "audit.jsonl").read_bytes()
    assert clean(cleaned.source, out, home, "--columns", str(cleaned.columns), "--export") == 0
    after = files_below(out / "items"), (out / "manifest.json").read_bytes(), (home / "audit.jsonl").read_bytes()
    assert after == before
    assert json.loads((out / "report.json").read_text())["this_run_skipped"] == 40


def test_a_changed_source_and_a_lost_or_altered_output_are_done_again(cleaned: Cleaned, tmp_path: Path):
    """Only the items whose source changed, whose output is gone, and whose output was altered are done again."""
    home, out = copied(cleaned, tmp_path)
    source = tmp_path / "source"
    shutil.copytree(cleaned.source, source)
    sound = [t["path"] for t in cleaned.truths if not t["corrupt"] and t["kind"] == "TXT"]
    (source / sound[0]).write_bytes((source / sound[0]).read_bytes() + b"\nstable")
    record = cleaned.records()[sound[1]]
    lost = next((out / "items").rglob(f"{record['item']}*"))
    lost.unlink()
    altered = next((out / "items").rglob(f"{cleaned.records()[sound[2]]['item']}*"))
    before = altered.read_bytes()
    altered.write_bytes(before + b" ")
    assert clean(source, out, home, "--columns", str(cleaned.columns), "--export") == 0
    assert json.loads((out / "report.json").read_text())["this_run_done"] == 3
    assert lost.is_file()
    assert altered.read_bytes() == before


def copied(cleaned: Cleaned, root: Path) -> tuple[Path, Path]:
    """Return copies of the site and of the output, registered where they are now."""
    home, out = root / "home", root / "out"
    shutil.copytree(cleaned.home, home)
    shutil.copytree(cleaned.out, out)
    (registration,) = (home / "batches").iterdir()
    registration.write_text(registration.read_text().replace(str(cleaned.out), str(out)))
    return home, out


def test_verify_accepts_what_deidentify_wrote(cleaned: Cleaned, capsys: pytest.CaptureFixture[str]):
    """A folder that nobody touched verifies with exit code 0."""
    assert cli.audit(["verify", "--home", str(cleaned.home)]) == 0
    assert "40 items" in capsys.readouterr().out


@pytest.mark.parametrize("harm", ["altered", "missing", "without a record", "manifest", "rolled back", "entry"])
def test_verify_finds_each_kind_of_harm(
    cleaned: Cleaned, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
):
    """An altered, missing or foreign item, a changed manifest or entry, and a lost head are found, one line each."""
    home, out = copied(cleaned, tmp_path)
    item = min(path for path in (out / "items").rglob("*") if path.is_file())
    log = home / "audit.jsonl"
    more: list[str] = []
    if harm == "altered":
        item.write_bytes(item.read_bytes() + b" ")
    elif harm == "missing":
        item.unlink()
    elif harm == "without a record":
        (item.parent / "foreign.dcm").write_bytes(b"x")
    elif harm == "manifest":
        (out / "manifest.json").write_text("{}")
    elif harm == "rolled back":
        more = ["--expect-head", "a" * 64]
    else:
        log.write_bytes(log.read_bytes().replace(b'"cleaned"', b'"cleaneD"', 1))
    assert cli.audit(["verify", "--home", str(home), *more]) == 2
    problems = capsys.readouterr().out.splitlines()
    assert len(problems) == 1
    assert {"rolled back": "kept elsewhere", "entry": "entry"}.get(harm, harm) in problems[0]


@pytest.mark.parametrize("harm", ["first", "middle", "last", "exchanged", "doubled", "forged"])
def test_verify_finds_records_that_are_missing_or_out_of_order(
    cleaned: Cleaned, tmp_path: Path, harm: str, capsys: pytest.CaptureFixture[str]
):
    """A record that was cut out anywhere, put elsewhere, doubled or written by hand ends the command with a line."""
    home, _ = copied(cleaned, tmp_path)
    log = home / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if harm in {"first", "middle", "last"}:
        del lines[{"first": 0, "middle": len(lines) // 2, "last": -1}[harm]]
    elif harm == "exchanged":
        lines[4], lines[5] = lines[5], lines[4]
    elif harm == "doubled":
        lines.insert(7, lines[6])
    else:  # an outcome is changed and the chain after it is not
        lines[3] = lines[3].replace(b'"quarantined"', b'"cleaned"').replace(b'"cleaned"', b'"quarantined"', 1)
        lines[3] = lines[3].replace(b"facts.", b"fact_.", 1)
    assert b"".join(lines) != log.read_bytes()
    log.write_bytes(b"".join(lines))
    assert cli.audit(["verify", "--home", str(home)]) == 2
    assert capsys.readouterr().out.strip()


def test_a_log_that_was_cut_back_is_found_by_the_head_that_was_kept(
    cleaned: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Whoever removes the newest records and what they are about is found by the head that was kept elsewhere."""
    home, _ = copied(cleaned, tmp_path)
    log = ChainLog(home / "audit.jsonl")
    for number in (1, 2):
        log.append("note", {"number": number})
    assert cli.audit(["verify", "--home", str(home)]) == 0
    head = next(word for word in capsys.readouterr().out.split() if len(word.strip(".,")) == 64).strip(".,")
    assert cli.audit(["verify", "--home", str(home), "--expect-head", head]) == 0
    path = home / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert cli.audit(["verify", "--home", str(home)]) == 0
    assert cli.audit(["verify", "--home", str(home), "--expect-head", head]) == 2


def test_no_key_is_in_any_output_log_or_printed_line(cleaned: Cleaned, tmp_path: Path):
    """The site's keys and data keys are in no other file: not raw, hexadecimal or base64, nor any long part of one."""
    shutil.copytree(cleaned.home, tmp_path / "home")
    home, out = SiteHome.open(tmp_path / "home"), tmp_path / "sealed"
    words = ["--columns", str(cleaned.columns), "--workers", "1", "--policy", "research-longitudinal"]
    assert cli.site(["deidentify", str(cleaned.source), "--out", str(out), "--home", str(home.root), *words]) == 0
    secrets = [path.read_bytes() for path in home.keys.iterdir() if path.is_file()]
    assert len(secrets) >= 3
    site_key = home.seal_key_path.read_bytes()
    wraps = [decode(path.read_bytes(), WrappedKey) for path in home.keys.glob("data/*.json")]
    assert len(wraps) >= 3
    secrets += [unwrap_by_site(wrap, site_key=site_key)._secret for wrap in wraps]
    ours = {path for path in home.keys.iterdir() if path.is_file()}
    files = [path for folder in (home.root, cleaned.out, out) for path in folder.rglob("*") if path.is_file()]
    assert ours < set(files)
    told = b"\n".join([*(path.read_bytes() for path in files if path not in ours), cleaned.printed.encode()])
    names = "\n".join(str(path) for path in files).encode()
    for secret in secrets:
        for form in forms(secret):
            assert form not in told
            assert form not in names


def forms(secret: bytes) -> set[bytes]:
    """Return what a key may look like; base64 at each of three offsets, since it may stand within something longer."""
    found = {secret, secret[:16], secret[16:], secret[::-1], secret.hex().encode(), secret.hex().upper().encode()}
    found |= {
        secret.hex()[:24].encode(),
        repr(secret)[2:-1].encode(),
        json.dumps(secret.decode("latin-1"))[1:-1].encode(),
    }
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found |= {encode(b"\0" * offset + secret)[4:36] for offset in range(3)}
    return found | {base64.b32encode(secret)[:40]}


def test_a_moved_folder_is_found_where_it_was_named(
    cleaned: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A folder that is not where it was made is a problem, until its new place is given."""
    home, out = copied(cleaned, tmp_path)
    moved = out.rename(tmp_path / "moved")
    assert cli.audit(["verify", "--home", str(home)]) == 2
    assert "moved" in capsys.readouterr().out
    assert cli.audit(["verify", "--home", str(home), "--items", str(moved)]) == 0


def test_quarantined_files_are_listed_released_and_deleted(
    cleaned: Cleaned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The list shows keyed names; release gives the very bytes back, deletion removes them, and both log why."""
    home, _ = copied(cleaned, tmp_path)
    broken = next(t for t in cleaned.truths if t["corrupt"] and t["bytes"] > 0)
    item = cleaned.records()[broken["path"]]["item"]
    assert cli.site(["quarantine", "list", "--home", str(home)]) == 0
    assert item in capsys.readouterr().out
    words = [item[:12], "--home", str(home), "--reason", "sent back to Dr. Eleanor Whitfield for a new export"]
    assert cli.site(["quarantine", "release", *words, "--to", str(tmp_path / "back")]) == 0
    (file,) = (tmp_path / "back").iterdir()
    assert hashlib.sha256(file.read_bytes()).hexdigest() == broken["sha256"]
    assert cli.site(["quarantine", "delete", *words]) == 0
    capsys.readouterr()
    assert cli.site(["quarantine", "list", "--home", str(home)]) == 0
    assert any(item in line and "deleted" in line for line in capsys.readouterr().out.splitlines())
    kinds = [entry.kind for entry in ChainLog(home / "audit.jsonl").entries()][-2:]
    assert kinds == ["quarantine-released", "quarantine-deleted"]
    assert b"Whitfield" not in (home / "audit.jsonl").read_bytes()
    with pytest.raises(UsageError, match="got none"):
        cli.site(["quarantine", "delete", *words])


def test_release_needs_a_reason(cleaned: Cleaned, tmp_path: Path):
    """Without a reason nothing is released, and nothing is logged."""
    home, _ = copied(cleaned, tmp_path)
    before = (home / "audit.jsonl").read_bytes()
    with pytest.raises(UsageError, match="--reason"):
        cli.site(["quarantine", "release", "abcd", "--home", str(home), "--reason", " ", "--to", str(tmp_path / "b")])
    assert (home / "audit.jsonl").read_bytes() == before


def notes(folder: Path) -> Path:
    """Write three small notes into a new folder."""
    folder.mkdir()
    (folder / "a.txt").write_text("Patient: Marlon Okafor, MRN 00482913, phone 555-010-2233. Mild anaemia.")
    (folder / "b.txt").write_text("患者欧阳明远，住院号：00981234。血红蛋白 87 g/L。", "utf-8")
    (folder / "c.jsonl").write_text(
        '{"patient": "p-77120", "text": "Seen on 3 May 2021.", "name": "Ada Quill"}\nno json'
    )
    return folder


def test_sealed_items_open_for_site_and_recipient_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Sealed is the default; the site and the RSA recipient open the same bytes, another key opens nothing."""
    source, home, out = notes(tmp_path / "source"), make_home(tmp_path / "home"), tmp_path / "out"
    private = rsa.generate_private_key(public_exponent=65537, key_size=4096)
    (tmp_path / "trial.pem").write_bytes(
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    unencrypted = serialization.NoEncryption()
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    (tmp_path / "trial.key").write_bytes(private.private_bytes(*pem))
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (tmp_path / "other.key").write_bytes(other.private_bytes(*pem))
    (source / "c.jsonl").write_text('{"patient": "p-77120", "text": "Seen on 3 May 2021.", "name": "Ada Quill"}\n')
    assert clean(source, out, home, "--recipient", str(tmp_path / "trial.pem")) == 0
    assert all(path.suffix == ".sealed" for path in (out / "items").rglob("*") if path.is_file())
    assert b"anaemia" not in b"".join(files_below(out).values())
    assert cli.site(["unseal", str(out), "--to", str(tmp_path / "site"), "--home", str(home)]) == 0
    assert cli.site(["unseal", str(out), "--to", str(tmp_path / "trial"), "--key", str(tmp_path / "trial.key")]) == 0
    opened = files_below(tmp_path / "site")
    assert opened == files_below(tmp_path / "trial")
    together = b"\n".join(opened.values()).decode()
    assert "Mild anaemia" in together
    assert not any(secret in together for secret in ("Okafor", "00482913", "欧阳", "p-77120", "Quill", "3 May 2021"))
    with pytest.raises(UsageError, match="not wrapped"):
        cli.site(["unseal", str(out), "--to", str(tmp_path / "no"), "--key", str(tmp_path / "other.key")])


def test_a_dry_run_leaves_a_preview_and_nothing_else(tmp_path: Path):
    """A dry run writes page, JSON and list; no item, no copy, no audit entry, and no record of the site on the page."""
    source, home, out = notes(tmp_path / "source"), make_home(tmp_path / "home"), tmp_path / "out"
    assert clean(source, out, home, "--dry-run") == 0
    assert {path.name for path in out.iterdir()} == {"preview.html", "preview.json", "quarantine.csv", ".lock"}
    assert not (home / "audit.jsonl").exists()
    assert not (home / "quarantine").exists()
    page = (out / "preview.html").read_text("utf-8")
    assert "[PATIENT NAME]" in page
    assert not any(secret in page for secret in ("Okafor", "anaemia", "欧阳"))
    assert clean(source, out, home) == 0


def test_lines_that_are_no_notes_are_left_out_or_refuse_the_file(tmp_path: Path):
    """Under the policy's fraction a bad line is left out and counted; above it the file is quarantined."""
    source, home, out = tmp_path / "source", make_home(tmp_path / "home"), tmp_path / "out"
    source.mkdir()
    good = json.dumps({"patient": "p1", "text": "stable"})
    (source / "few.jsonl").write_text("\n".join([good] * 9 + ["no json"]))
    (source / "many.jsonl").write_text("\n".join([good] * 2 + ["no json"]))
    assert clean(source, out, home, "--export") == 0
    bodies = [entry.body for entry in ChainLog(home / "audit.jsonl").entries() if entry.kind == ITEM_KIND]
    assert sorted((body["outcome"], body["reason"], body.get("facts.lines_left_out", 0)) for body in bodies) == [
        ("cleaned", "", 1),
        ("quarantined", "no-notes", 0),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_note_with_a_line_separator_in_its_text_comes_out_whole(tmp_path: Path, end: str):
    """Only line ends divide JSON Lines: separators that JSON allows within a string cut no note in two."""
    source, home, out = tmp_path / "source", make_home(tmp_path / "home"), tmp_path / "out"
    source.mkdir()
    texts = [f"stable,{mark}afebrile {n}" for n, mark in enumerate("\u2028\u2029\x85\x1c ")]
    lines = [json.dumps({"patient": f"p{n}", "text": text}, ensure_ascii=False) for n, text in enumerate(texts)]
    (source / "n.jsonl").write_bytes(end.join(lines).encode())
    assert clean(source, out, home, "--export") == 0
    (path,) = (out / "items").rglob("*.jsonl")
    released = [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()]  # as another tool may read
    assert [text.split()[-1] for text in released] == [str(n) for n in range(len(texts))]


def test_a_note_that_the_rules_refuse_is_quarantined_and_such_a_line_left_out(tmp_path: Path):
    """A note whose rules find no end is quarantined by its own reason; a name as long as a page costs one line."""
    source, home = tmp_path / "in", make_home(tmp_path / "site")
    source.mkdir()
    (source / "endless.txt").write_text("现住家住区" * 4_000, encoding="utf-8")
    good = "".join(json.dumps({"text": "seen", "patient": f"p{number}"}) + "\n" for number in range(30))
    (source / "notes.jsonl").write_text(good + json.dumps({"text": "seen", "name": "x" * 2_000}) + "\n")
    assert clean(source, tmp_path / "out", home, "--export") == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["quarantined"] == 1
    assert '"note-refused"' in json.dumps(report)
    (lines,) = [data for name, data in files_below(tmp_path / "out").items() if name.endswith(".jsonl")]
    assert len(lines.splitlines()) == 30


def test_what_was_left_out_of_a_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Lines of notes and rows of tables that a cleaned file lacks are counted at the terminal and in both reports."""
    source, home, out = tmp_path / "source", make_home(tmp_path / "home"), tmp_path / "out"
    source.mkdir()
    good = json.dumps({"patient": "p1", "text": "stable"})
    (source / "n.jsonl").write_text("\n".join([good] * 18 + ["no json", "[]"]))
    rows = "\n".join(f"M{n},{40 + n}" for n in range(27))
    (source / "t.csv").write_text(f"mrn,age\n{rows}\nM27,many\nM28\nM29,old\n")
    columns = tmp_path / "columns.yaml"
    columns.write_text(
        "columns:\n- {name: mrn, role: patient-key, kind: identifier}\n"
        "- {name: age, role: feature, kind: number, unit: years, low: 0, high: 120}\n"
    )
    words = ("--columns", str(columns), "--export")
    assert clean(source, out, home, *words, policy="hipaa-safe-harbor") == 0
    printed = capsys.readouterr().out
    assert "2 lines of notes and 3 rows of tables were left out" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["left_out"] == {"lines of notes": 2, "rows of tables": 3}
    assert "lines of notes: 2" in (out / "report.html").read_text("utf-8")


def test_unknown_kinds_links_and_unreadable_files_are_quarantined(tmp_path: Path):
    """A picture, a symbolic link, a pipe and an empty file are quarantined; the link's target is not copied."""
    source, home, out = tmp_path / "source", make_home(tmp_path / "home"), tmp_path / "out"
    source.mkdir()
    (tmp_path / "outside.txt").write_text("Patient: Marlon Okafor")
    (source / "link.txt").symlink_to(tmp_path / "outside.txt")
    (source / "scan.png").write_bytes(b"\x89PNG\r\n")
    (source / "void.txt").write_bytes(b"")
    os.mkfifo(source / "pipe.txt")
    assert clean(source, out, home) == 0
    report = json.loads((out / "report.json").read_text())
    assert {reason: len(items) for reason, items in report["quarantine"].items()} == {
        "symbolic-link": 1, "unknown-kind": 1, "empty": 1, "not-a-file": 1,
    }  # fmt: skip
    assert len(list((home / "quarantine").rglob("*.sealed"))) == 2
    assert cli.audit(["verify", "--home", str(home)]) == 0


def test_same_names_keep_the_paths_of_the_source(tmp_path: Path):
    """With --names same the outputs lie as in the source, and verify still finds each one's record."""
    source, home, out = notes(tmp_path / "source"), make_home(tmp_path / "home"), tmp_path / "out"
    assert clean(source, out, home, "--names", "same", "--export") == 0
    assert {path.name for path in (out / "items").rglob("*")} == {"a.txt", "b.txt"}
    assert json.loads((out / "manifest.json").read_text())["names"] == "same"
    assert cli.audit(["verify", "--home", str(home)]) == 0


def test_same_names_never_put_two_files_in_one_place(tmp_path: Path):
    """A DICOM file without a suffix and one beside it that has the suffix both come out, each with its own pixels."""
    truths = tmp_path / "truths.jsonl"
    images = Mixture(csv=0.0, txt=0.0, jsonl=0.0)
    write_corpus(tmp_path / "corpus", truths, seed=3, files=30, corrupt_fraction=0.0, mixture=images)
    of_kind = [json.loads(line) for line in truths.read_text().splitlines()]
    scans = [tmp_path / "corpus" / one["path"] for one in of_kind if one["kind"] == "MR"][:2]
    source, home, out = tmp_path / "source", make_home(tmp_path / "home"), tmp_path / "out"
    source.mkdir()
    for scan, name in zip(scans, ("x", "x.dcm"), strict=True):
        (source / name).write_bytes(scan.read_bytes())
    assert clean(source, out, home, "--names", "same", "--export") == 0
    report = json.loads((out / "report.json").read_text())
    aside = sum(len(items) for items in report["quarantine"].values())
    assert len(list((out / "items").rglob("x*"))) == 2 - aside
    assert aside == 0, report["quarantine"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "nowhere"}, "no source"),
        ({"policy": "nobody-knows"}, "hipaa-safe-harbor"),
        ({"home": "nowhere"}, "site init"),
        ({"out": "source/inside"}, "inside each other"),
        ({"columns": "nowhere.yaml"}, "columns file"),
        ({"recipient": "source/a.txt"}, "PEM"),
        ({"workers": "0"}, "--workers"),
    ],
)
def test_a_wrong_word_is_one_line_and_leaves_nothing(tmp_path: Path, change: dict[str, str], says: str):
    """A wrong path, policy, key or number is one line with exit code 2 before anything is written."""
    notes(tmp_path / "source")
    make_home(tmp_path / "home")
    words = {"source": "source", "out": "out", "home": "home", "policy": "pipl-strict"} | change
    paths = {name: str(tmp_path / value) for name, value in words.items() if name not in {"policy", "workers"}}
    more = [word for name in ("columns", "recipient") if name in change for word in (f"--{name}", paths[name])]
    more += ["--workers", change.get("workers", "1")]
    with pytest.raises(UsageError, match=says) as caught:
        cli.site(
            ["deidentify", paths["source"], "--out", paths["out"], "--home", paths["home"],
             "--policy", words["policy"], *more]
        )  # fmt: skip
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("items"))


def test_a_folder_of_something_else_is_not_written_into(tmp_path: Path):
    """An output folder that holds foreign files, or another form of items, is refused."""
    source, home, out = notes(tmp_path / "source"), make_home(tmp_path / "home"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("x")
    with pytest.raises(UsageError, match="new or empty"):
        clean(source, out, home)
    (out / "thesis.doc").unlink()
    assert clean(source, out, home) == 0
    with pytest.raises(UsageError, match="sealed"):
        clean(source, out, home, "--export")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_without_permission_is_one_line(tmp_path: Path):
    """A source folder that this account may not list is refused in one line."""
    source, home = notes(tmp_path / "source"), make_home(tmp_path / "home")
    source.chmod(0)
    try:
        with pytest.raises(UsageError, match="right to read"):
            clean(source, tmp_path / "out", home)
    finally:
        source.chmod(0o700)


def test_confirmed_columns_decide_what_a_table_gives(tmp_path: Path):
    """Only confirmed columns pass, values of a category are listed, and dropped ones leave no trace."""
    source, home, out = tmp_path / "source", make_home(tmp_path / "home"), tmp_path / "out"
    source.mkdir()
    rows = "\n".join(
        f"M{n:03d},Person{n} Zed,{50 + n % 3},{'F' if n % 2 else 'M'},{70 + n},called at home" for n in range(30)
    )
    (source / "t.csv").write_text(f"mrn,name,age,sex,hgb,remarks\n{rows}\n")
    columns = tmp_path / "columns.yaml"
    columns.write_text(
        "columns:\n"
        "- {name: mrn, role: patient-key, kind: identifier}\n"
        "- {name: age, role: quasi-identifier, kind: number, hierarchy: age, unit: years, low: 0, high: 120}\n"
        "- {name: hgb, role: feature, kind: number, low: 1, high: 300}\n"
    )
    assert clean(source, out, home, "--columns", str(columns), "--export") == 0
    (table,) = (out / "items").rglob("*.parquet")
    frame = pl.read_parquet(table)
    assert set(frame.columns) == {"patient", "age", "hgb"}
    assert frame["hgb"].to_list() == [float(70 + n) for n in range(30)]
    assert not any(secret in table.read_bytes() for secret in (b"Person1", b"M001", b"called"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_result(tmp_path: Path):
    """A kill -9 half-way leaves whole files only; the same command then ends with what an uninterrupted run gives."""
    source = tmp_path / "source"
    truths = corpus(source, seed=4, files=60, mixture=Mixture(csv=0.0))
    home = make_home(tmp_path / "home")
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert clean(source, whole, home, "--export") == 0
    words = ["deidentify", str(source), "--out", str(halved), "--home", str(home), "--policy", "research-longitudinal"]
    run = subprocess.Popen(  # noqa: S603  our own interpreter
        [sys.executable, "-c", RUN, *words, "--export", "--workers", "2"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    items = halved / "items"
    deadline = time.monotonic() + 120
    while run.poll() is None and time.monotonic() < deadline and len(files_below(items) if items.exists() else {}) < 15:
        os.sched_yield()
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert 15 <= len([path for path in items.rglob("*") if path.is_file()]) < len(truths)
    assert clean(source, halved, home, "--export") == 0
    assert files_below(halved / "items") == files_below(whole / "items")
    listing = "items"
    kept = ("item", "kind", "outcome", "reason", "path", "output_sha256")
    ends = [
        [[item[name] for name in kept] for item in json.loads((out / "manifest.json").read_text())[listing]]
        for out in (whole, halved)
    ]
    assert ends[0] == ends[1]
    assert cli.audit(["verify", "--home", str(home)]) == 0


@pytest.mark.slow
def test_a_larger_corpus_loses_nothing(tmp_path: Path):
    """Of 1,000 mixed files all sound ones are out or set aside by the policy, and the 2 % broken ones quarantined."""
    source, manifest = tmp_path / "source", tmp_path / "truths.jsonl"
    summary = write_corpus(source, manifest, seed=9, files=1000, corrupt_fraction=0.02)
    home, out = make_home(tmp_path / "home"), tmp_path / "out"
    with pytest.raises(UsageError, match="columns"):
        clean(source, out, home)
    assert clean(source, out, home, "--columns", str(out / "columns.yaml"), "--workers", "2") == 0
    report = json.loads((out / "report.json").read_text())
    assert report["items"] == summary.files == 1000
    by_policy = sum(len(items) for reason, items in report["quarantine"].items() if reason in POLICY_REASONS)
    assert summary.corrupt <= report["quarantined"] <= by_policy + summary.corrupt
    assert cli.audit(["verify", "--home", str(home)]) == 0
