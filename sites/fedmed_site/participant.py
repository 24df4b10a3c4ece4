"""The site's part in secure aggregation: verified roster, sealed state, and the round it works on.

Why it exists: `fedmed.secagg.client` is pure; here its state is restored before a
message is answered and is on disk, sealed, before the reply can leave.

Rules:
    * The state is written and synced before a reply is returned.
    * What a round starts from comes with its first message and is kept under its digest; the work is
      done on exactly what the site agreed to.
    * Work is asked for only once every check of the request has passed.
    * A round begins once what came of the one before is settled by the coordinator's receipt (see `receipts`).
    * No phase but the one that trains needs torch, and nothing here imports it.

What it does not do: train, charge, or talk.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from fedmed.errors import IntegrityError, ProtocolError, RefusedError
from fedmed.exchange import SEGMENTS, Answer, Phase, Round, Task, Work, run_of
from fedmed.files import private_folder, write_atomic
from fedmed.privacy.skellam import draw_share
from fedmed.receipts import Participation, sign_participation
from fedmed.records import require
from fedmed.secagg import client, masking, parcels, store, transcript, wire
from fedmed.secagg.masking import Contribution
from fedmed.secagg.messages import (
    Abort,
    Certificate,
    CertifyRequest,
    CoordinatorMessage,
    Finish,
    Masked,
    MaskRequest,
    Offer,
    ShareRequest,
    SiteMessage,
    UnmaskRequest,
)
from fedmed.secagg.roster import Policy, Roster, Segment
from fedmed.secagg.shamir import Entropy
from fedmed.secagg.state import ClientState
from fedmed.tensors import pack, unpack
from fedmed_site.home import SiteHome
from fedmed_site.membership import Membership
from fedmed_site.receipts import SiteReceipts
from fedmed_site.replies import Stored
from fedmed_site.shared_noise import Terms, require_noise

CARRIES: Final[dict[Phase, tuple[type[CoordinatorMessage], ...]]] = {
    "query.offer": (Offer,),
    "train.share": (ShareRequest,),
    "train.mask": (MaskRequest,),
    "query.certify": (CertifyRequest,),
    "query.unmask": (UnmaskRequest,),
    "query.end": (Abort, Finish),
}
"""Which message of the protocol each action carries."""

Worker = Callable[[Task, Callable[[Stored], bool]], Stored]
"""Does one kind of work, given how to tell whether stored work was spent in a certified sum."""


def system_entropy(_site: str, _request: bytes) -> Entropy:
    """Return the operating system's generator, whatever the site and the request."""
    return os.urandom


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """What a kept round says beside its arrays."""

    version: int = 1
    works: tuple[Work, ...]
    plan_digest: str
    number: int
    size: int

    def __post_init__(self) -> None:
        require(self.version == 1, f"version must be 1, got {self.version}")


class Participant:
    """One site in secure aggregation, over its folder."""

    def __init__(
        self, home: SiteHome, *, name: str, entropy_of: Callable[[str, bytes], Entropy], now: Callable[[], datetime]
    ) -> None:
        self._name = name
        self._membership = Membership(home)
        self._receipts = SiteReceipts(home, self._membership)
        self._seal_key_path = home.seal_key_path
        self._state_path = home.secagg_state_path
        self._rounds = home.secagg / "rounds"
        self._entropy_of = entropy_of
        self._now = now

    def answer(self, task: Task, work: Worker, *, log_clipped: Callable[[str, int], None]) -> Answer:
        """Answer one phase; its reply is on disk before it is returned.

        Args:
            task: A phase with the protocol's message, of a plan that the site accepts.
            work: Does the site's part of a round; asked only in the masking phase.
            log_clipped: Told the segment and how many of its values were beyond the policy's clip.

        Raises:
            ProtocolError: The message does not belong to the action, plan or round, or is not allowed now.
            RefusedError: The site has joined no consortium.
            IntegrityError: The stored state does not verify.
        """
        message = self._message(task)
        ending = isinstance(message, Abort | Finish)
        if not ending:
            self._settle(task, message)
        roster = self._membership.roster(now=self._now())
        entropy = self._entropy_of(self._name, task.message)
        state = self._restore()
        if _replaced(state, message, roster):
            self._save(state.erased(), entropy)
            raise RefusedError("the roster was replaced in the middle of this attempt; retry with the next attempt")
        model, started = self._model(task, message, state, roster.policy)
        follower, reply = client.step(
            state,
            message,
            site=self._name,
            roster=roster,
            model=model,
            signing_key=self._membership.signing_key(),
            entropy=entropy,
            contribution=lambda: self._contribution(task, state, roster, work, log_clipped),
        )
        self._keep(started, follower)
        receipt = self._write_down(task, message, reply)
        self._save(follower, entropy)
        if ending:  # what is left of the attempt is erased first, whatever the receipt is
            self._settle(task, message)
        if reply is None:
            return Answer(site=self._name)
        data, vectors = parcels.split(reply)
        return Answer(site=self._name, message=data, arrays=vectors, receipt=receipt)

    def _settle(self, task: Task, message: CoordinatorMessage) -> None:
        """Take in the receipt that came along; a new attempt needs one for the last that this site uploaded to.

        Raises:
            RefusedError: It is owed, or can't be believed.
        """
        now = self._now()
        self._receipts.take(task.plan_digest, task.receipt, now=now)
        if isinstance(message, Offer | ShareRequest):
            self._receipts.require_settled(task.plan_digest, message.turn, now=now)

    def _write_down(self, task: Task, message: CoordinatorMessage, reply: SiteMessage | None) -> bytes:
        """Note what is about to leave; return the signed word that goes with an upload, else nothing."""
        if isinstance(reply, Certificate) and isinstance(message, CertifyRequest):
            self._receipts.certified(task.plan_digest, message)
        if not isinstance(reply, Masked):
            return b""
        turn, upload = reply.turn, reply.upload.digest
        self._receipts.uploaded(task.plan_digest, turn, upload)
        participation = Participation(
            plan=task.plan_digest,
            run=turn.run,
            round=turn.round,
            attempt=turn.attempt,
            site=self._name,
            upload=upload.hex(),
        )
        return sign_participation(participation, self._membership.signing_key())

    # --- what a message stands on ----------------------------------------------------------

    def _message(self, task: Task) -> CoordinatorMessage:
        """Return the protocol's message of a task, checked to belong to it."""
        message = wire.decode(task.message)
        expected = CARRIES[task.action]  # type: ignore[index]  # the agent sends phases here and nothing else
        if not isinstance(message, expected):
            raise ProtocolError(f"{task.action}: expected {expected[0].__name__}, got {type(message).__name__}")
        run = run_of(task.plan_digest, task.works)
        if isinstance(message, Finish):
            belongs = message.run == run
        else:
            belongs = message.turn.run == run and message.turn.round == task.round
        if not belongs:
            raise ProtocolError(f"{task.action}: expected a message of {run} round {task.round}, got one of another")
        return message

    def _model(
        self, task: Task, message: CoordinatorMessage, state: ClientState, policy: Policy
    ) -> tuple[bytes, Round | None]:
        """Return the digest of what this site would start from, and what came with the message.

        Raises:
            ProtocolError: The model that came has another size than the work that is offered.
        """
        if not isinstance(message, Offer | ShareRequest):
            return (state.advertised.offer.model if state.advertised else bytes(32)), None
        offer = message.offer if isinstance(message, ShareRequest) else message
        if isinstance(message, ShareRequest) and state.advertised is not None:  # it came with the offer
            return (offer.model if self._path(offer.model).is_file() else bytes(32)), None
        started = Round(
            works=task.works,
            plan_digest=task.plan_digest,
            number=task.round,
            arrays=task.arrays,
            size=_size(offer, task.works, policy),
        )
        if "model" in task.arrays and task.arrays["model"].shape != (started.size,):
            raise ProtocolError(f"offer: expected work of the model's size, got {started.size} for another model")
        return started.digest(), started

    def _keep(self, started: Round | None, follower: ClientState) -> None:
        """Keep what a round starts from once its terms are agreed; nothing else that came touches the disk."""
        if started is None or follower.advertised is None or follower.advertised.offer.model != started.digest():
            return
        head = _Head(works=started.works, plan_digest=started.plan_digest, number=started.number, size=started.size)
        private_folder(self._rounds)
        write_atomic(self._path(started.digest()), pack(head, started.arrays))

    def _restore(self) -> ClientState:
        if not self._state_path.is_file():  # a site without it would offer again what it has spent
            raise IntegrityError(
                "expected the sealed state of secure aggregation, found none; restore it from a backup"
            )
        return store.restore(self._state_path, site=self._name, site_key=self._seal_key_path.read_bytes())

    def _save(self, state: ClientState, entropy: Entropy) -> None:
        """Seal the state, durably, and remove what no attempt needs any more."""
        store.save(self._state_path, state, site=self._name, site_key=self._seal_key_path.read_bytes(), entropy=entropy)
        self._forget_rounds(state)

    def _contribution(
        self,
        task: Task,
        state: ClientState,
        roster: Roster,
        work: Worker,
        log_clipped: Callable[[str, int], None],
    ) -> Contribution:
        """Return this site's part of the round: a mean per kind of work, and its weight."""
        if state.advertised is None:
            raise ProtocolError("expected the phase before this one; start again with an offer")
        started = self._started(state.advertised.offer.model)
        if (started.works, started.plan_digest, started.number) != (task.works, task.plan_digest, task.round):
            raise ProtocolError("expected the work that was offered, got another")
        if state.dealt is None:
            raise ProtocolError("expected the sharing before the masking; start again with an offer")
        terms = Terms(policy=roster.policy, offer=state.advertised.offer)
        ours = state.uploaded.update_ids if state.uploaded else ()  # the same request again gets the same bytes
        spent = frozenset(state.spent) - frozenset(ours)
        parts = []
        for kind in started.works:
            segment = terms.segment(kind)
            edition = partial(_edition, plan_digest=started.plan_digest, number=started.number)
            worked = work(started.task(kind), partial(_is_spent, segment=segment, edition=edition, spent=spent))
            part = _part(worked, segment, terms, state.dealt.rounding, log_clipped)
            parts.append(replace(part, editions={segment.name: edition(worked)}))
        weight = max(part.weight for part in parts)
        merged = {name: value for part in parts for name, value in part.values.items()}
        return Contribution(
            weight=weight,
            values={**merged, "aux": np.array([weight], dtype=np.int64)},
            noise={name: value for part in parts for name, value in part.noise.items()},
            editions={name: value for part in parts for name, value in part.editions.items()},
        )

    def _started(self, model: bytes) -> Round:
        path = self._path(model)
        if not path.is_file():
            raise RefusedError("expected what this round starts from, found it removed; this site drops out")
        head, arrays = unpack(path.read_bytes(), _Head)
        started = Round(
            works=head.works, plan_digest=head.plan_digest, number=head.number, arrays=arrays, size=head.size
        )
        if started.digest() != model:
            raise IntegrityError("the kept start of the round is not the one that was agreed; remove it")
        return started

    def _forget_rounds(self, state: ClientState) -> None:
        """Remove what no attempt needs any more."""
        needed = state.advertised.offer.model.hex() if state.advertised else ""
        with contextlib.suppress(FileNotFoundError):
            for path in self._rounds.iterdir():
                if path.suffix == ".tensors" and path.stem != needed:
                    path.unlink(missing_ok=True)

    def _path(self, model: bytes) -> Path:
        return self._rounds / f"{model.hex()}.tensors"


def _replaced(state: ClientState, message: CoordinatorMessage, roster: Roster) -> bool:
    """Say whether the roster was replaced in the middle of an attempt: its policy is not the one that was agreed."""
    if state.advertised is None or isinstance(message, Offer | Abort | Finish):
        return False
    return state.advertised.offer.roster != roster.digest()


def _is_spent(stored: Stored, *, segment: Segment, edition: Callable[[Stored], bytes], spent: frozenset[bytes]) -> bool:
    mean = stored.answer.arrays["mean"]
    made = Contribution(weight=1.0, values={segment.name: mean}, editions={segment.name: edition(stored)})
    return bool(spent & set(masking.update_ids(made, (segment,))))


def _edition(stored: Stored, *, plan_digest: str, number: int) -> bytes:
    """Return what tells apart releases of one vector.

    Where the sites share the noise, each plan, round and time that its work is done anew is charged and noised on
    its own, and clipped sums without noise may well repeat; elsewhere a repeated vector is never offered again.
    """
    if "noise_multiplier" not in stored.answer.facts:
        return b""
    round_number, edition = transcript.number(number), transcript.number(stored.edition)
    return transcript.digest("edition", plan_digest.encode(), round_number, edition)


def _part(
    stored: Stored, segment: Segment, terms: Terms, secret: bytes, log_clipped: Callable[[str, int], None]
) -> Contribution:
    """Return one kind of work as a contribution to its segment, with its share of noise where sites share it."""
    mean, facts = stored.answer.arrays["mean"], stored.answer.facts
    weight = float(facts["weight"])
    beyond = int((np.abs(mean) * (weight / terms.policy.max_weight) > segment.clip).sum())
    if beyond:
        log_clipped(segment.name, beyond)
    noise = {}
    if "noise_multiplier" in facts:
        units = require_noise(facts, segment, terms)
        key = transcript.expand(secret, "noise", segment.name.encode())
        noise[segment.name] = draw_share(key, variance=units.share_variance(terms.honest), size=len(mean))
    return Contribution(weight=weight, values={segment.name: mean}, noise=noise)


def _size(offer: Offer, works: tuple[Work, ...], policy: Policy) -> int:
    """Return how long the vectors of a round are, as the offer has it.

    Raises:
        ProtocolError: The offer has another layout than the policy, or lengths that don't fit the work.
    """
    if len(offer.lengths) != len(policy.segments):
        raise ProtocolError(f"offer: expected {len(policy.segments)} segment lengths, got {len(offer.lengths)}")
    lengths = {segment.name: length for segment, length in zip(policy.segments, offer.lengths, strict=True)}
    sizes = {lengths.pop(SEGMENTS[work], 0) for work in works}
    if len(sizes) != 1 or lengths.pop("aux", 0) != 1 or any(lengths.values()):
        raise ProtocolError("offer: expected lengths of exactly the segments that the work fills")
    return sizes.pop()
