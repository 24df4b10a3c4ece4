"""A new seal key for a site: everything that the old one guards is wrapped anew, and no item is touched.

Why it exists: a key that was in a lost back-up, or known to somebody who has left, must be replaceable without opening
a terabyte of images.

Rules:
    * The agent does not run meanwhile, and nothing else opens the site's folder between the keys.
    * The order is: the new key on the disk beside the old one, each wrap and the state of secure aggregation anew,
      the audit record, the new key in the old one's place. After a crash at any of these the command goes on from
      there: both keys lie on the disk until everything is under the new one.
    * A wrap names the key that it is under; one under neither key stops the rotation.

What it does not do: replace the pseudonym key (people would get other tokens), or the data keys themselves: whoever has
one of those needs folders that are made anew.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fedmed.audit import ChainLog, Scalar
from fedmed.crypto.seal import WrappedKey, rotate_site_key, site_key_id
from fedmed.deid.pseudonyms import KEY_BYTES
from fedmed.errors import IntegrityError
from fedmed.files import locked, write_atomic
from fedmed.records import canonical_json, decode
from fedmed.secagg import store
from fedmed_site.data_keys import LOCK
from fedmed_site.home import SiteHome
from fedmed_site.leaving import ARCHIVES, WRAP_SUFFIX, alone
from fedmed_site.manifest import KEYS_FOLDER, read_batch, registrations

KIND: Final = "site-key-rotated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotated:
    """What a rotation did. `missing` folders were not found: their own copy of the wrap is still under the old key."""

    before: str
    after: str
    wraps: int
    folders: int
    missing: int


def rotate(home: SiteHome, *, by: str, entropy: Callable[[int], bytes] = os.urandom) -> Rotated:
    """Give the site a new seal key, or finish what an earlier call began.

    Args:
        home: The site's folder, opened for this.
        by: Who asks, as the operating system knows him.
        entropy: Source of the new key.

    Raises:
        UsageError: The agent runs.
        IntegrityError: A wrap or the state of secure aggregation is under neither key; the old key stays.
        OSError: The disk is full; the same command goes on.
    """
    with alone(home), _no_new_wraps(home):
        if not home.next_seal_key_path.exists():
            write_atomic(home.next_seal_key_path, entropy(KEY_BYTES))
        old, new = home.seal_key_path.read_bytes(), home.next_seal_key_path.read_bytes()
        ours = [*sorted(home.keys.glob("data/*.json")), *sorted(home.root.glob(f"{ARCHIVES}/*{WRAP_SUFFIX}"))]
        copies, missing = _copies(home)
        for path in (*ours, *copies):
            _rewrap(path, old=old, new=new)
        _reseal_state(home, old=old, new=new, entropy=entropy)
        done = Rotated(
            before=_before(home, old, new),
            after=site_key_id(new),
            wraps=len(ours),
            folders=len(copies),
            missing=missing,
        )
        _record(home, done, by=by)
        write_atomic(home.seal_key_path, new)
        home.next_seal_key_path.unlink()
    return done


@contextmanager
def _no_new_wraps(home: SiteHome) -> Iterator[None]:
    """Keep a run of deidentify from making a data key meanwhile."""
    folder = home.keys / "data"
    folder.mkdir(mode=0o700, exist_ok=True)
    with locked(folder / LOCK):
        yield


def _copies(home: SiteHome) -> tuple[list[Path], int]:
    """Return the site's wraps that lie in folders of items, and how many folders are not where they were made."""
    found = [(Path(one.out), one.batch.batch) for one in registrations(home)]
    there = []
    for out, batch in found:
        path = out / KEYS_FOLDER / "site.json"
        held = read_batch(out)
        if held is not None and held.batch == batch and path.is_file():
            there.append(path)
    return there, len(found) - len(there)


def _rewrap(path: Path, *, old: bytes, new: bytes) -> None:
    wrapped = decode(path.read_bytes(), WrappedKey)
    if wrapped.recipient_key_id != site_key_id(new):
        write_atomic(path, canonical_json(rotate_site_key(wrapped, old=old, new=new)), mode=path.stat().st_mode & 0o777)


def _reseal_state(home: SiteHome, *, old: bytes, new: bytes, entropy: Callable[[int], bytes]) -> None:
    """Seal the state of secure aggregation under the new key, unless it is."""
    path, site = home.secagg_state_path, home.record().name
    if not path.exists():
        return
    try:
        store.restore(path, site=site, site_key=new)
    except IntegrityError:
        store.save(path, store.restore(path, site=site, site_key=old), site=site, site_key=new, entropy=entropy)


def _before(home: SiteHome, old: bytes, new: bytes) -> str:
    """Return the name of the key that is replaced; once the new one is in its place, only the log knows it."""
    recorded = _last(home) if old == new else None
    return site_key_id(old) if recorded is None else str(recorded["before"])


def _record(home: SiteHome, done: Rotated, *, by: str) -> None:
    last = _last(home)
    if last is not None and last["after"] == done.after:
        return
    body: dict[str, Scalar] = {
        "before": done.before, "after": done.after, "wraps": done.wraps, "folders": done.folders,
        "folders_missing": done.missing, "by": by,
    }  # fmt: skip
    ChainLog(home.audit_path).append(KIND, body)


def _last(home: SiteHome) -> dict[str, Scalar] | None:
    bodies = [entry.body for entry in ChainLog(home.audit_path).entries() if entry.kind == KIND]
    return dict(bodies[-1]) if bodies else None
