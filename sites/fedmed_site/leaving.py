"""Leaving a consortium: what belonged to it is sealed into one archive and taken out of use.

Why it exists: a hospital that leaves must hold no key that still speaks for it, and must still be able to show,
years later, what it took part in.

Rules:
    * Nothing is removed before the archive is on disk, was read back, and stands in the audit log.
    * Sealed and removed: certificate and keys of the network, the signing key, the state of secure aggregation,
      stored answers, the consortium's key and roster. A leaving that was cut short is finished by saying it again.
    * Kept: data, ledgers, audit log, decisions, models, evaluations, and the keys that open the site's own folders.
    * No agent may run meanwhile.

What it does not do: tell the consortium, which has to revoke the site on its side; or erase a disk's old blocks.
"""

import hashlib
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final

from fedmed.audit import ChainLog
from fedmed.crypto.seal import DataKey, WrappedKey, seal_stream, unseal_stream, unwrap_by_site, wrap_for_site
from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.errors import IntegrityError, UsageError
from fedmed.files import held_alone, replacing, write_atomic
from fedmed.records import canonical_json, decode
from fedmed.secagg import store
from fedmed.secagg.state import ClientState
from fedmed_site.approvals import written
from fedmed_site.home import SiteHome

KIND: Final = "left-consortium"
ARCHIVES: Final = "left"
WRAP_SUFFIX: Final = ".key.json"
SUFFIX: Final = ".sealed"
_SEALED: Final = (
    "tls",
    "keys/supernode.key",
    "keys/supernode.pub",
    "keys/tls.next.key",
    "keys/signing.key",
    "secagg",
    "replies",
    "consortium",
)
"""What goes into the archive and then away, in this order: the mark of membership comes last."""
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Where the archive is, and what it says of itself in the audit log."""

    archive: Path
    sha256: str
    files: int


def leave(home: SiteHome, *, by: str, now: datetime, entropy: Callable[[int], bytes] = os.urandom) -> Left:
    """Seal what belongs to the consortium into HOME/left, and take it out of use.

    Args:
        home: The site's folder.
        by: Who leaves, as the operating system knows him.
        now: The present time, with its time zone.
        entropy: Source of the new signing key.

    Raises:
        UsageError: The site has joined none, or its agent runs.
        IntegrityError: The archive did not read back; nothing was removed.
        OSError: The disk is full; nothing was removed.
    """
    require_member(home)
    with alone(home):
        present = [name for name in _SEALED if (home.root / name).exists()]
        folder = home.root / ARCHIVES
        folder.mkdir(exist_ok=True, mode=0o700)
        archive = folder / f"{now:%Y%m%dT%H%M%S}Z{SUFFIX}"
        if archive.exists():
            raise UsageError(f"{archive}: expected no archive of this second, found one; say it again")
        left = _archive(home, archive, present)
        body: dict[str, str | int] = {
            "archive": archive.name,
            "sha256": left.sha256,
            "files": left.files,
            "by": by,
            "at": written(now),
        }
        ChainLog(home.audit_path).append(KIND, body)
        for name in present:
            _remove(home.root / name)
        _renew(home, entropy)
    return left


def require_member(home: SiteHome) -> None:
    """Raise unless the site belongs to a consortium, or a leaving was cut short.

    Raises:
        UsageError: There is nothing to leave.
    """
    if not any((home.root / name).exists() for name in ("consortium/consortium.key", "tls", "keys/supernode.key")):
        raise UsageError("this site has joined no consortium; there is nothing to leave")


def open_archive(home: SiteHome, archive: Path, to: Path) -> None:
    """Write a sealed archive as a readable tar file, which holds keys.

    Raises:
        UsageError: The file is there already.
        IntegrityError: The archive was changed, or belongs to another site.
    """
    if to.exists():
        raise UsageError(f"{to}: expected no such file, found one; nothing was overwritten")
    key = _key_of(home, archive)
    with archive.open("rb") as sealed, replacing(to) as plain:
        for chunk in unseal_stream(sealed, key=key, name=archive.name):
            plain.write(chunk)


def _archive(home: SiteHome, archive: Path, names: list[str]) -> Left:
    key = DataKey.generate()
    wrapped = wrap_for_site(key, site=home.record().name, site_key=home.seal_key_path.read_bytes())
    write_atomic(_wrap_path(archive), canonical_json(wrapped))
    with replacing(archive) as sealed, _tar(home.root, names) as plain:
        seal_stream(plain, sealed, key=key, name=archive.name)
    digest, files = hashlib.sha256(), 0
    with archive.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    with _opened(archive, _key_of(home, archive)) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        files = sum(member.isfile() for member in tar)
    expected = sum(path.is_file() for name in names for path in _below(home.root / name))
    if files != expected:
        raise IntegrityError(f"{archive.name}: expected {expected} files, read {files} back; nothing was removed")
    return Left(archive=archive, sha256=digest.hexdigest(), files=files)


@contextmanager
def _tar(root: Path, names: list[str]) -> Iterator[BinaryIO]:
    """Yield a tar of parts of a folder as a stream; no copy of it in clear touches the disk."""

    def write(target: BinaryIO) -> None:
        with tarfile.open(fileobj=target, mode="w|") as tar:
            for name in names:
                tar.add(root / name, arcname=name)

    with _piped(write) as plain:
        yield plain


@contextmanager
def _opened(archive: Path, key: DataKey) -> Iterator[BinaryIO]:
    def write(target: BinaryIO) -> None:
        with archive.open("rb") as sealed:
            for chunk in unseal_stream(sealed, key=key, name=archive.name):
                target.write(chunk)

    with _piped(write) as plain:
        yield plain


@contextmanager
def _piped(write: Callable[[BinaryIO], None]) -> Iterator[BinaryIO]:
    """Yield what `write` writes in a thread; what it raises is raised here."""
    reader, writer = os.pipe()
    failed: list[Exception] = []

    def run() -> None:
        try:
            with os.fdopen(writer, "wb") as target:
                write(target)
        except BrokenPipeError:
            pass  # whoever reads has failed, and says so
        except Exception as error:  # noqa: BLE001  raised below, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="archive", daemon=True)
    thread.start()
    try:
        with os.fdopen(reader, "rb") as plain:
            yield plain
            while plain.read(_CHUNK):  # a tar ends before its padding does
                pass
    except tarfile.TarError:  # what came was cut short; the writer knows why
        thread.join()
        raise (failed[0] if failed else IntegrityError("archive: expected a whole tar file, got another")) from None
    finally:
        thread.join()
    if failed:
        raise failed[0]


@contextmanager
def alone(home: SiteHome) -> Iterator[None]:
    """Hold the locks of the agent, of its appliance and of its socket.

    Raises:
        UsageError: An agent runs.
    """
    home.run.mkdir(exist_ok=True, mode=0o700)
    locks = ("control.sock.lock", "appliance.lock", "../agent.lock")
    with ExitStack() as held:
        free = [held.enter_context(held_alone(home.run / name)) for name in locks]
        if not all(free):
            raise UsageError("expected no agent to run, found one; fedmed site stop, then say it again")
        yield


def _renew(home: SiteHome, entropy: Callable[[int], bytes]) -> None:
    """Make the folder one of a site that has joined nothing yet."""
    for folder in (home.consortium, home.secagg, home.replies):
        folder.mkdir(exist_ok=True, mode=0o700)
    write_atomic(home.signing_key_path, entropy(KEY_BYTES))
    seal_key = home.seal_key_path.read_bytes()
    store.save(home.secagg_state_path, ClientState(), site=home.record().name, site_key=seal_key, entropy=entropy)


def _key_of(home: SiteHome, archive: Path) -> DataKey:
    try:
        wrapped = decode(_wrap_path(archive).read_bytes(), WrappedKey)
    except FileNotFoundError:
        raise UsageError(f"{archive}: expected its wrapped key beside it, found none; restore both") from None
    return unwrap_by_site(wrapped, site_key=home.seal_key_path.read_bytes())


def _wrap_path(archive: Path) -> Path:
    return archive.with_suffix(WRAP_SUFFIX)


def _below(path: Path) -> Iterator[Path]:
    """Yield the files that a tar of `path` holds as files; a link is kept as a link."""
    for one in (path, *path.rglob("*")) if path.is_dir() else (path,):
        if not one.is_symlink():
            yield one


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        with suppress(FileNotFoundError):
            path.unlink()
