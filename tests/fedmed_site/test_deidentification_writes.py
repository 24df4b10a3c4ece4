"""What a run of deidentify lays on a disk on its way: nothing that can be read, unless that was asked for."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmed_site import cli, deidentification
from fedmed_site.deidentification_items import Cleaner, Done, Job, Setting

CANARY = "quokkafever"
"""A word that de-identification keeps."""
NOTES = [{"record": f"MRN{n:05d}", "text": f"{CANARY} {n}. Patient: John Smithson, stable."} for n in range(30)]
COLUMNS = """columns:
- {name: record, role: patient-key, kind: identifier}
- {name: kind, role: feature, kind: category, values: [quokkafever, other]}
- {name: age, role: quasi-identifier, kind: number, hierarchy: age, unit: years, low: 0, high: 120}
"""


class Disk:
    """Looks at everything that a run has below its folder, also without a name, whenever this process touches a file.

    An audit hook can't be removed, so it sleeps between the tests.
    """

    _watching: "Disk | None" = None
    _hooked = False
    _EVENTS = frozenset({"open", "os.rename", "os.chmod", "os.remove"})

    def __init__(self, folder: Path) -> None:
        self.folder, self.found, self.looks = folder, set[str](), 0

    def __enter__(self) -> "Disk":
        if not Disk._hooked:
            sys.addaudithook(Disk._see)
            Disk._hooked = True
        Disk._watching = self
        return self

    def __exit__(self, *_: object) -> None:
        Disk._watching = None

    @staticmethod
    def _see(event: str, _: tuple[Any, ...]) -> None:
        disk = Disk._watching
        if disk is None or event not in Disk._EVENTS:
            return
        Disk._watching = None  # looking opens files
        disk.looks += 1
        disk.found |= {name for name, data in on_disk(disk.folder) if readable(data)}
        Disk._watching = disk


def on_disk(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file below a folder, and each that this process holds open there without a name."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.name, path.read_bytes()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
            if target.startswith(str(folder)) and target.endswith("(deleted)"):
                yield "unnamed", link.read_bytes()
        except OSError:
            continue


def readable(data: bytes) -> bool:
    """Tell whether anybody could read the canary, a table, an image, or columns of Arrow."""
    return CANARY.encode() in data or b"PAR1" in data[:4] or data[128:132] == b"DICM" or b"ARROW" in data[:4096]


def in_this_process(jobs: Iterator[Job], setting: Setting, *, workers: int) -> Iterator[Done]:
    """Clean without worker processes, which no hook of this one sees."""
    cleaner = Cleaner(setting)
    return (cleaner.take(job) for job in jobs)


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """Return an output folder and the words of a run over a table, notes and a note; rows spill from the first on."""
    source = tmp_path / "source"
    source.mkdir()
    rows = "\n".join(f"MRN{n:05d},{CANARY},{40 + n % 4}" for n in range(60))
    (source / "t.csv").write_text(f"record,kind,age\n{rows}\n")
    (source / "n.jsonl").write_text("".join(json.dumps(note) + "\n" for note in NOTES))
    (source / "n.txt").write_text(NOTES[0]["text"])
    (tmp_path / "columns.yaml").write_text(COLUMNS)
    assert cli.site(["init", "--home", str(tmp_path / "home"), "--name", "north"]) == 0
    monkeypatch.setattr("fedmed.deid.spill.MEMORY_BYTES", 1)
    monkeypatch.setattr(deidentification, "clean_all", in_this_process)
    words = ["deidentify", str(source), "--out", str(tmp_path / "out"), "--home", str(tmp_path / "home")]
    return tmp_path / "out", [*words, "--policy", "research-longitudinal", "--columns", str(tmp_path / "columns.yaml")]


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--export", "--dry-run"]])
def test_nothing_readable_is_on_the_disk_at_any_moment(mixed: tuple[Path, list[str]], more: list[str]) -> None:
    """Tables, notes and the rows that wait for k-anonymity lie sealed from their first byte on, in a dry run too."""
    out, words = mixed
    with Disk(out) as disk:
        assert cli.site([*words, *more]) == 0
    assert disk.looks > 30
    assert not disk.found


def test_the_watch_sees_what_was_asked_for(mixed: tuple[Path, list[str]]) -> None:
    """With --export the same watch finds the readable outputs, but the waiting rows stay sealed."""
    out, words = mixed
    with Disk(out) as disk:
        assert cli.site([*words, "--export"]) == 0
    assert disk.found
    assert "unnamed" not in disk.found


KILLED = """
import os, signal, sys
from fedmed_site import cli, deidentification
from fedmed_site.deidentification_items import Cleaner
deidentification.clean_all = lambda jobs, setting, workers: (c.take(job) for c in [Cleaner(setting)] for job in jobs)
def hook(event, arguments):
    if event == "os.rename" and b"table.parquet" in os.fsencode(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
cli.site(sys.argv[1:])
"""


def test_a_kill_while_a_table_is_written_leaves_nothing_readable(mixed: tuple[Path, list[str]]) -> None:
    """A table that was whole when the process was killed lies there sealed; the same command then ends well."""
    out, words = mixed
    run = subprocess.run([sys.executable, "-c", KILLED, *words], check=False, capture_output=True)  # noqa: S603  our own
    assert run.returncode == -signal.SIGKILL
    left = [path for path in (out / ".work").rglob("*") if path.is_file()]
    assert any(path.stat().st_size > 1000 for path in left)
    assert not [name for name, data in on_disk(out) if readable(data)]
    assert cli.site(words) == 0
    assert not (out / ".work").exists()
    assert len(list((out / "items").rglob("*.sealed"))) == 3
