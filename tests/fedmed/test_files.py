"""A write is whole or absent, an append is on disk, and a dead process holds no lock."""

import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fedmed.errors import UsageError
from fedmed.files import appearing, append_durable, locked, replacing, write_atomic

KILLED_BEFORE_RENAME = """
import os, signal, sys
from pathlib import Path
from fedmed.files import write_atomic
os.replace = os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), b"new" * 100_000)
"""
KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from fedmed.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
HOLDER = """
import sys
from pathlib import Path
from fedmed.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_write_replaces_the_whole_file(tmp_path: Path):
    """A shorter content leaves nothing of the longer one."""
    path = tmp_path / "file"
    write_atomic(path, b"a long content")
    write_atomic(path, b"short")
    assert path.read_bytes() == b"short"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_killed_before_its_rename_leaves_the_old_file(tmp_path: Path):
    """SIGKILL at the last moment: readers see the old bytes, and the next write goes through."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_RENAME, path], check=False)  # noqa: S603  our own
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_stray_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, failure: BaseException
):
    """A full disk or Ctrl-C before the rename changes nothing that anybody can see."""

    def fail(*_: object) -> None:
        raise failure

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(type(failure)):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets what reaches the disk, in its order."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_sync(descriptor: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112  a descriptor
        fsync(descriptor)

    def note_rename(*paths: str) -> None:
        calls.append("rename")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_rename)
    return calls


def test_the_bytes_are_on_disk_before_the_name_points_to_them(tmp_path: Path, order: list[str]):
    """File, then rename, then folder: a power cut between any two leaves the old or the new file."""
    write_atomic(tmp_path / "file", b"new")
    assert order == ["file", "rename", "folder"]


def test_a_file_is_replaced_once_its_block_has_ended_well(tmp_path: Path):
    """Until then readers see the old bytes; what was written can be read back inside the block."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new and ")
        file.write(b"long")
        file.seek(0)
        assert file.read() == b"new and long"
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new and long"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_old_file_and_no_stray_one(tmp_path: Path, failure: BaseException):
    """Whatever goes wrong half-way, nobody sees a part."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"ne")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_is_on_disk_before_its_name_points_to_it(tmp_path: Path, order: list[str]):
    """File, then rename, then folder, as for a file that is written at once."""
    with replacing(tmp_path / "file") as file:
        file.write(b"new")
    assert order == ["file", "rename", "folder"]


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path):
    """The next run of the same file clears up; files of other names, however alike, stay."""
    path = tmp_path / "scan[1]"
    killed = subprocess.run([sys.executable, "-c", KILLED_HALF_WAY, path], check=False)  # noqa: S603  our own
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".scan[1].parquet.abcdefgh", ".scan1.abcdefgh", "scan[1].abcdefgh")]
    for other in others:
        other.touch()
    with replacing(path) as file:
        file.write(b"new")
    assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])


def test_a_folder_is_not_listed_for_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Ten thousand files beside it cost nothing."""

    def fail(*_: object) -> None:
        raise AssertionError("a folder was listed")

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, fail)
    with replacing(tmp_path / "file") as file:
        file.write(b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_files_are_for_their_owner_only_unless_said_otherwise(tmp_path: Path):
    """A secret is never readable by others, not even for a moment; a report may be."""
    write_atomic(tmp_path / "secret", b"")
    append_durable(tmp_path / "log", b"")
    write_atomic(tmp_path / "report", b"", mode=0o644)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"secret": 0o600, "log": 0o600, "report": 0o644}


def test_an_append_is_synced_with_its_folder_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The bytes, and the name of a new file, are on disk when the call returns."""
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append(f"{target.name}:{target.stat().st_size}" if target.is_file() else "folder")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    append_durable(tmp_path / "log", b"one")
    append_durable(tmp_path / "log", b"two")
    assert synced == ["log:3", "folder", "log:6"]


def test_an_append_keeps_what_is_there(tmp_path: Path):
    """Order of calls is order in the file."""
    for part in (b"one ", b"", b"two"):
        append_durable(tmp_path / "log", part)
    assert (tmp_path / "log").read_bytes() == b"one two"


def test_an_append_in_pieces_is_still_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel may take a part of a write; the rest follows."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:2])))
    append_durable(tmp_path / "log", b"seven b")
    assert (tmp_path / "log").read_bytes() == b"seven b"


def test_appends_from_many_threads_are_not_mixed(tmp_path: Path):
    """Every line is whole."""
    lines = [f"{number}".encode() * 500 + b"\n" for number in range(16)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda line: append_durable(tmp_path / "log", line), lines))
    assert sorted((tmp_path / "log").read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_lock_excludes_others_and_is_freed_when_its_holder_dies(tmp_path: Path):
    """SIGKILL leaves no stale lock behind."""
    path = tmp_path / "lock"
    with subprocess.Popen(  # noqa: S603  our own interpreter
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with path.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait()
        with locked(path):
            pass


def test_a_lock_is_freed_when_the_block_fails(tmp_path: Path):
    """An error inside doesn't lock the next caller out."""
    path = tmp_path / "lock"
    with pytest.raises(ZeroDivisionError), locked(path):
        raise ZeroDivisionError
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    """Until the block has ended there is none, and then there is nothing beside it."""
    with appearing(tmp_path / "new") as stage:
        (stage / "inner").mkdir()
        (stage / "inner" / "file").write_text("content")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "inner" / "file").read_text() == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Nor does what a killed run left stay, or get in."""
    (tmp_path / ".new.part").mkdir()
    (tmp_path / ".new.part" / "old").write_text("half")

    def fail() -> None:
        with appearing(tmp_path / "new") as stage:
            assert not list(stage.iterdir())
            (stage / "file").write_text("content")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


def test_no_folder_is_overwritten(tmp_path: Path) -> None:
    """Neither one that was there, nor one that came meanwhile, nor a link to nowhere."""
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("there", "link"):
        with pytest.raises(UsageError, match="nothing was overwritten"), appearing(tmp_path / name):
            pass

    def late() -> None:
        with appearing(tmp_path / "late"):
            (tmp_path / "late").mkdir()

    with pytest.raises(UsageError, match="nothing was overwritten"):
        late()
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link", "late"}
    with pytest.raises(UsageError, match="make it first"), appearing(tmp_path / "no" / "new"):
        pass
