"""Work that may already have left the site, so that a repeated question gets the same bytes.

Why it exists: after a crash on either side the coordinator asks again. Training
again would be a second release of the same round; replaying is not.

Rules:
    * An answer is on disk before it is sent.
    * The same question with another model is refused: a round is answered once.
    * Work whose sum a site has certified is never offered again; it is done anew as the next edition.
    * Only the last two rounds of an action are kept.

What it does not do: decide whether a question may be answered at all.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from fedmed.errors import IntegrityError, RefusedError
from fedmed.exchange import Answer, Task, answer_from_bytes, answer_to_bytes
from fedmed.files import private_folder, write_atomic

KEPT_ROUNDS = 2
_DIGEST_CHARACTERS = 64
_EDITION_BYTES = 4
HEAD_BYTES = _DIGEST_CHARACTERS + _EDITION_BYTES + hashlib.sha256().digest_size
"""Before a stored answer stand the task's digest, the edition, and a hash of both; the answer has its own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stored:
    """A stored answer; `edition` counts how often the round was worked anew."""

    answer: Answer
    edition: int


class ReplyStore:
    """The stored answers of one site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, task: Task) -> Stored | None:
        """Return the stored answer to exactly this task, or None.

        Raises:
            RefusedError: This round was answered for another model.
        """
        path = self._path(task)
        if not path.is_file():
            return None
        data = path.read_bytes()
        asked, edition = _head_of(data)
        if asked != task.digest():
            raise RefusedError(f"round {task.round} of {task.action} was already answered for another model")
        return Stored(answer=answer_from_bytes(data[HEAD_BYTES:]), edition=edition)

    def keep(self, task: Task, answer: Answer, *, edition: int = 0) -> None:
        """Store `answer` durably; call this before it is sent."""
        path = self._path(task)
        private_folder(path.parent)
        head = task.digest().encode() + edition.to_bytes(_EDITION_BYTES, "big")
        write_atomic(path, head + hashlib.sha256(head).digest() + answer_to_bytes(answer))
        if task.round >= KEPT_ROUNDS:
            with contextlib.suppress(FileNotFoundError):
                self._path_of(task, task.round - KEPT_ROUNDS).unlink()

    def _path(self, task: Task) -> Path:
        return self._path_of(task, task.round)

    def _path_of(self, task: Task, number: int) -> Path:
        return self._folder / task.plan_digest / f"{task.action}-{number:06d}.reply"


def _head_of(data: bytes) -> tuple[str, int]:
    """Return the task's digest and the edition before a stored answer.

    Raises:
        IntegrityError: They were changed or cut.
    """
    named = _DIGEST_CHARACTERS + _EDITION_BYTES
    if len(data) < HEAD_BYTES or hashlib.sha256(data[:named]).digest() != data[named:HEAD_BYTES]:
        raise IntegrityError("expected a stored answer, got damaged bytes; restore the folder from a backup")
    return data[:_DIGEST_CHARACTERS].decode("ascii", "replace"), int.from_bytes(data[_DIGEST_CHARACTERS:named], "big")


def charge_id(task: Task, edition: int) -> str:
    """Return the name under which the ledger charges a task; work done anew is charged anew."""
    again = f"/again-{edition}" if edition else ""
    return f"{task.plan_digest}/{task.action}/{task.round}{again}"
