"""The doctor: is everything in place for this site to take part, and if not, what cures it.

Why it exists: a hospital's network, disk, clock and certificates fail in ways that an agent's log shows only in its
own words. The doctor looks at each thing by itself and says what to do.

Rules:
    * A check returns findings; it changes nothing, and a check that itself fails is a finding, not the end.
    * Red is what stops the site from taking part; yellow is what will, or what could not be looked at.
    * A finding holds no patient data and no key.

What it does not do: cure anything.
"""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from cryptography import x509

from fedmed.crypto.passphrases import Secret
from fedmed.errors import FedMedError
from fedmed.records import MachineSpec, require
from fedmed_site.approvals import utc_now
from fedmed_site.home import SiteHome
from fedmed_site.identity import CERTIFICATE_FILE, IdentityFiles, SiteIdentity, read_site_identity

Level = Literal["ok", "warn", "bad"]
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found; `cure` is what to do where it isn't ok."""

    name: str
    level: Level
    found: str
    cure: str = ""

    def __post_init__(self) -> None:
        require(self.level == "ok" or bool(self.cure), f"{self.name}: a finding that isn't ok must have a cure")


def ok(name: str, found: str) -> Finding:
    """Return a finding that is as it should be."""
    return Finding(name=name, level="ok", found=found)


def warn(name: str, found: str, cure: str) -> Finding:
    """Return a finding that will stop the site, or could not be looked at."""
    return Finding(name=name, level="warn", found=found, cure=cure)


def bad(name: str, found: str, cure: str) -> Finding:
    """Return a finding that stops the site."""
    return Finding(name=name, level="bad", found=found, cure=cure)


def connect_to(host: str, port: int, timeout_s: float) -> socket.socket:
    """Return a TCP connection.

    Raises:
        OSError: There is none.
    """
    return socket.create_connection((host, port), timeout=timeout_s)


def free_memory_bytes() -> int:
    """Return how much memory could be used now (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return 0


def machine(spec: MachineSpec) -> str:
    """Return what studies are computed on under a site's settings: device, memory, precisions, ceiling.

    Raises:
        ConfigError: A graphics card is set, and there is none.
    """
    from fedmed.learning.machine import Machine  # noqa: PLC0415  it imports torch: seconds, and only the doctor asks

    return str(Machine.found(spec))


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """The site that is examined, and the world around it; each of which a test may replace."""

    home: SiteHome
    secret: Secret | None = None
    """What the site's keys are sealed under; without it mutual TLS is not tried."""
    now: Callable[[], datetime] = utc_now
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    connect: Callable[[str, int, float], socket.socket] = connect_to
    resolve: Callable[[str], str] = socket.gethostbyname
    free_memory: Callable[[], int] = free_memory_bytes
    machine: Callable[[MachineSpec], str] = machine

    def certificate(self) -> x509.Certificate | None:
        """Return the site's TLS certificate, whatever its dates; None if it has joined no consortium."""
        path = IdentityFiles(self.home).current / CERTIFICATE_FILE
        return x509.load_pem_x509_certificate(path.read_bytes()) if path.is_file() else None

    def identity(self) -> SiteIdentity | None:
        """Return who the site is, also if its certificate has expired or its clock is wrong; None if it joined none.

        Raises:
            FedMedError: What is stored does not verify.
        """
        certificate = self.certificate()
        if certificate is None:
            return None
        now = min(max(self.now(), certificate.not_valid_before_utc), certificate.not_valid_after_utc)
        return read_site_identity(self.home.root, now=now)


Check = Callable[[Patient], Sequence[Finding]]


def examine(patient: Patient, checks: Sequence[tuple[str, Check]]) -> Iterator[Finding]:
    """Do the checks one after another and yield what they find.

    Args:
        patient: The site.
        checks: Each with the name of its finding where it fails itself.
    """
    for name, check in checks:
        try:
            yield from check(patient)
        except FedMedError as error:
            yield bad(name, str(error), "do what the message says; what is damaged is restored from a backup")
        except OSError as error:
            yield bad(
                name, f"could not be looked at: {error.strerror or type(error).__name__}", "look at the file or host"
            )
        except Exception as error:  # noqa: BLE001  one check's fault must not hide the others
            found = f"could not be looked at ({type(error).__name__})"
            yield bad(name, found, "tell the developers of FedMed, with this line")


def all_checks() -> Sequence[tuple[str, Check]]:
    """Return every check in the order in which their causes follow from one another."""
    from fedmed_site import doctor_machine, doctor_network, doctor_site  # noqa: PLC0415  they stand on this module

    return (*doctor_machine.CHECKS, *doctor_site.CHECKS, *doctor_network.CHECKS)


def folder_bytes(folder: Path) -> int:
    """Return the size of the files below a folder; 0 if there is none."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total
