"""The consortium's register: who was invited, enrolled, renewed and revoked, one hash-chained line each.

Why it exists: what the consortium decided must be found again, in order, and a change must be noticed. Every
decision (may this request be answered?) is taken on the register, under its lock.

Rules:
    * Append only. Each entry holds public facts: names, public keys, serial numbers, digests, dates.
    * A request is answered once; a code is used once; a key belongs to one site, and a revoked key to none.
    * What is current follows from the entries alone.

What it does not do: sign anything, or notice that its end was cut off; keep the head that commands print.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from fedmed.audit import GENESIS, ChainLog, Entry, Scalar
from fedmed.errors import IntegrityError, RefusedError, UsageError
from fedmed.members import Certified, Member, RevokedSite
from fedmed.records import digest
from fedmed_server.consortium import files_of

INVITED: Final = "invited"
ENROLLED: Final = "enrolled"
RENEWED: Final = "renewed"
REVOKED: Final = "revoked"
COORDINATED: Final = "coordinator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """What the entries say now.

    `edition`: how many entries there are. `head`: the digest of the last. `codes`: those that were used, by id.
    `requests`: the digests of those that were answered. `tls_keys`: every one that was certified, by digest.
    `statements`: how many were made about coordinators.
    """

    edition: int
    head: str
    members: tuple[Member, ...]
    revoked: tuple[RevokedSite, ...]
    codes: frozenset[str]
    requests: frozenset[str]
    tls_keys: frozenset[str]
    statements: int

    def member(self, site: str) -> Member:
        """Return the member of that name.

        Raises:
            RefusedError: It is not enrolled, or it was revoked.
        """
        found = next((one for one in self.members if one.site == site), None)
        if found is not None:
            return found
        gone = next((one for one in reversed(self.revoked) if one.site == site), None)
        if gone is not None:
            raise RefusedError(
                f"site {site}: expected an enrolled site, but it was revoked at {gone.revoked_at}; "
                "invite it anew if it may come back"
            )
        raise RefusedError(f"site {site}: expected an enrolled site, found none of that name; invite and enrol it")

    def require_not_member(self, site: str) -> None:
        """Raise if a site of that name is enrolled.

        Raises:
            RefusedError: It is.
        """
        if any(one.site == site for one in self.members):
            raise RefusedError(
                f"site {site}: expected a name that is not enrolled; it renews with fedmed site renew, and if its keys "
                "are lost, revoke it first: fedmed consortium roster revoke"
            )

    def require_new_keys(self, *, signing_key: bytes, supernode_key: str) -> None:
        """Raise if a key stands in the register already, in force or revoked.

        Raises:
            RefusedError: It does; the message names the site.
        """
        known: tuple[Member | RevokedSite, ...] = (*self.members, *self.revoked)
        for one in known:
            if one.signing_key == signing_key or one.supernode_key == supernode_key:
                raise RefusedError(
                    f"request: expected keys that nobody has had, but {one.site} has or had one of them; "
                    "the site makes new keys: fedmed site join INVITATION --new-keys"
                )


def read_register(folder: Path) -> Register:
    """Return what the register in the consortium's folder says now.

    Raises:
        UsageError: There is no register.
        IntegrityError: Its chain does not verify.
    """
    path = files_of(folder).register
    if not path.is_file():
        raise UsageError(f"{path}: expected the consortium's register, found no such file; restore it from a backup")
    return _fold(ChainLog(path).entries())


def append(path: Path, decide: Callable[[Register], tuple[str, dict[str, Scalar]]]) -> Register:
    """Append what `decide` answers to the register as it is then, with no writer in between; return the new one.

    Args:
        path: The register's file.
        decide: Returns a kind and a body, or raises, and then nothing is written.

    Raises:
        IntegrityError: The chain does not verify.
        OSError: The disk is full or the file is not writable.
    """
    log = ChainLog(path)
    log.extend(lambda entries: decide(_fold(entries)))
    return _fold(log.entries())


def _fold(entries: Sequence[Entry]) -> Register:
    register = Register(
        edition=0,
        head=GENESIS,
        members=(),
        revoked=(),
        codes=frozenset(),
        requests=frozenset(),
        tls_keys=frozenset(),
        statements=0,
    )
    for entry in entries:
        try:
            register = _after(register, entry)
        except (KeyError, ValueError) as error:
            raise IntegrityError(
                f"register: entry {entry.index} of kind {entry.kind}: expected its fields, {error}; restore a backup"
            ) from None
    head = digest(entries[-1]) if entries else GENESIS
    members = tuple(sorted(register.members, key=lambda one: one.site))
    return replace(register, edition=len(entries), head=head, members=members)


def _after(register: Register, entry: Entry) -> Register:
    body = {key: str(value) for key, value in entry.body.items()}
    if entry.kind == COORDINATED:
        return replace(register, statements=register.statements + 1)
    if entry.kind == ENROLLED:
        member = Member(
            site=body["site"],
            signing_key=bytes.fromhex(body["signing_key"]),
            supernode_key=body["supernode_key"],
            certificates=(_certified(body),),
        )
        answered = _answered(register, body)
        return replace(answered, members=(*answered.members, member), codes=answered.codes | {body["code_id"]})
    if entry.kind == RENEWED:
        return replace(_answered(register, body), members=tuple(_renewed(register.members, body)))
    if entry.kind == REVOKED:
        return _revoked(register, body)
    return register


def _answered(register: Register, body: dict[str, str]) -> Register:
    return replace(
        register,
        requests=register.requests | {body["request"]},
        tls_keys=register.tls_keys | {body["tls_key"]},
    )


def _certified(body: dict[str, str]) -> Certified:
    return Certified(serial=body["tls_serial"], not_after=body["not_after"])


def _renewed(members: tuple[Member, ...], body: dict[str, str]) -> Iterator[Member]:
    for one in members:
        own = one.site == body["site"]
        yield replace(one, certificates=(*one.certificates, _certified(body))) if own else one


def _revoked(register: Register, body: dict[str, str]) -> Register:
    site = body["site"]
    gone = tuple(
        RevokedSite(
            site=site,
            revoked_at=body["at"],
            signing_key=one.signing_key,
            supernode_key=one.supernode_key,
            tls_serials=tuple(certificate.serial for certificate in one.certificates),
        )
        for one in register.members
        if one.site == site
    )
    stay = tuple(one for one in register.members if one.site != site)
    return replace(register, members=stay, revoked=(*register.revoked, *gone))
