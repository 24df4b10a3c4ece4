"""The doctor's look at the machine: versions, the folder's permissions, disk, memory, accelerator.

What it does not do: need a consortium or a network.
"""

import importlib.metadata
import os
import platform
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from fedmed import __version__
from fedmed.audit import ChainLog
from fedmed.errors import ConfigError, FedMedError
from fedmed_site.approvals import Approvals
from fedmed_site.console import user_name
from fedmed_site.doctor import Check, Finding, Patient, bad, folder_bytes, ok, warn

GIB: Final = 1 << 30
LEAST_DISK_BYTES: Final = GIB // 4
"""With less than this the next log entry or answer may not fit."""
PER_BASE: Final = 6
"""Rule of thumb: kept answers and the work on a model take up to this many times the size of its base."""
_SHOWN: Final = 3


def versions(_patient: Patient) -> Sequence[Finding]:
    """Compare what is installed with what this version of FedMed asks for."""
    wrong = []
    for text in importlib.metadata.requires("fedmed") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{wanted.name}{wanted.specifier} is missing")
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name}{wanted.specifier}, found {found}")
    here = (
        f"fedmed {__version__}, Python {platform.python_version()}, flwr {_version('flwr')}, torch {_version('torch')}"
    )
    if wrong:
        return [bad("versions", f"{here}; expected {'; '.join(wrong)}", "install FedMed's wheel and its pins again")]
    return [ok("versions", here)]


def folder(patient: Patient) -> Sequence[Finding]:
    """Look whether anybody else could read the site's folder."""
    root = patient.home.root
    owner = root.stat().st_uid
    found = f"{root}, of {user_name(owner)}"
    if owner != os.geteuid():
        cure = f"do this as {user_name(owner)}: sudo -u {user_name(owner)} fedmed site doctor"
        return [bad("folder", f"{found}, but this is {user_name(os.geteuid())}", cure)]
    loose = [path for path in _private(root) if _is_loose(path)]
    if loose:
        names = ", ".join(str(path.relative_to(root.parent)) for path in loose[:_SHOWN])
        more = f" and {len(loose) - _SHOWN} more" if len(loose) > _SHOWN else ""
        return [bad("folder", f"others can get at {names}{more}", f"chmod -R go= {root}")]
    foreign = [path for path in _private(root) if path.lstat().st_uid != owner]
    if foreign:
        names = ", ".join(str(path.relative_to(root.parent)) for path in foreign[:_SHOWN])
        return [bad("folder", f"{names} belong to somebody else", f"chown -R {user_name(owner)} {root}")]
    return [ok("folder", f"{found}; only its owner can read it")]


def disk(patient: Patient) -> Sequence[Finding]:
    """Compare the free space with what the largest study needs."""
    free = shutil.disk_usage(patient.home.root).free
    need = GIB + PER_BASE * largest_base(patient)
    found = f"{_gib(free)} free of about {_gib(need)} for the largest study"
    if free < LEAST_DISK_BYTES:
        return [bad("disk", found, "make room: a site that can't write refuses every task")]
    if free < need:
        return [warn("disk", found, "make room before the next study")]
    return [ok("disk", found)]


def memory(patient: Patient) -> Sequence[Finding]:
    """Compare the free memory with what the largest study needs."""
    free, need = patient.free_memory(), 2 * GIB + PER_BASE * largest_base(patient)
    found = f"{_gib(free)} free of about {_gib(need)} for the largest study"
    if free < need:
        return [warn("memory", found, "end other programs, or give the machine more memory")]
    return [ok("memory", found)]


def accelerator(patient: Patient) -> Sequence[Finding]:
    """Say what computes, and in which precisions; nothing needs a graphics card unless the site is set to one."""
    spec = patient.home.record().machine
    try:
        return [ok("accelerator", patient.machine(spec))]
    except ConfigError as error:
        return [bad("accelerator", str(error), "fedmed site machine --device auto")]


def largest_base(patient: Patient) -> int:
    """Return the size in bytes of the largest base model among the studies that may run, 0 if there is none."""
    audit = ChainLog(patient.home.audit_path)
    try:
        entries = Approvals(patient.home, audit).entries()
    except FedMedError:  # told by the check of the studies
        return 0
    bases = {entry.base_digest for entry in entries if entry.state != "rejected"}
    return max((folder_bytes(patient.home.models / base) for base in bases), default=0)


CHECKS: Final[Sequence[tuple[str, Check]]] = (
    ("versions", versions),
    ("folder", folder),
    ("disk", disk),
    ("memory", memory),
    ("accelerator", accelerator),
)


def _private(root: Path) -> Iterator[Path]:
    """Yield the folder, what lies in it, and everything that holds secrets; not each of a million records."""
    yield root
    yield from root.iterdir()
    for name in ("keys", "tls", "secagg", "consortium"):
        if (root / name).is_dir():
            yield from (root / name).rglob("*")


def _is_loose(path: Path) -> bool:
    mode = path.lstat().st_mode
    public = path.suffix == ".pub" or path.name.endswith(".pub.json")
    return not stat.S_ISLNK(mode) and not stat.S_ISSOCK(mode) and not public and bool(mode & 0o077)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
