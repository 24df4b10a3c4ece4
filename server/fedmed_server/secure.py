"""Secure aggregation at the coordinator: attempts, exchanges, and what comes out as a sum.

Why it exists: `fedmed.secagg.server` is pure; here its messages travel, its state is on
disk before they do, and a failed attempt is begun again without whom it failed for.

Rules:
    * Each upload is added to the running sum as it arrives and is not kept.
    * The state of an attempt is stored when a phase begins, before its messages leave, and after each
      unmasking; a restarted coordinator takes the attempt up where it was and sites repeat their bytes.
    * Adverts for the next round come with this one's unmasking, so a round costs four exchanges.
    * An attempt with too few sites is followed by another one, without the sites that were missing.
    * Every attempt is settled in the study's receipts before another begins; a receipt rides on the first message that
      a site gets after it, and on the last.

What it does not do: see an update, a weight or a count of one site; decide what sites train.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fedmed.aggregation import RunningSum
from fedmed.errors import ProtocolError, RefusedError, SiteFailureError
from fedmed.exchange import SEGMENTS, Answer, Failure, Phase, Round, Task, Work, run_of
from fedmed.records import AggregationSpec
from fedmed.secagg import attempt, parcels, server, wire
from fedmed.secagg.attempt import Aggregate, Deadline, Outgoing, ServerState
from fedmed.secagg.messages import (
    Abort,
    Advert,
    CertifyRequest,
    CoordinatorMessage,
    Finish,
    Masked,
    MaskRequest,
    Offer,
    Refusal,
    ShareRequest,
    SiteMessage,
    Turn,
    UnmaskRequest,
)
from fedmed.secagg.roster import Roster
from fedmed_server.aggregators import Collected
from fedmed_server.attempt_store import AttemptStore
from fedmed_server.channel import Channel
from fedmed_server.receipts import StudyReceipts

ACTIONS: Final[dict[type[CoordinatorMessage], Phase]] = {
    Offer: "query.offer",
    ShareRequest: "train.share",
    MaskRequest: "train.mask",
    CertifyRequest: "query.certify",
    UnmaskRequest: "query.unmask",
    Abort: "query.end",
    Finish: "query.end",
}
"""The action under which each message of the protocol travels."""

FAREWELL_TIMEOUT_S: Final = 10.0
_OVER: Final = (attempt.Phase.DONE, attempt.Phase.ABORTED)
_Step = tuple[ServerState, tuple[Outgoing, ...]]
_Check = Callable[[SiteMessage, Answer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Play:
    """One round as it is carried out: over what, what, with whom, who failed so far, and whom a receipt is owed."""

    channel: Channel
    asked: Round
    cohort: Mapping[int, str]
    failures: dict[str, Failure]
    owed: Mapping[str, bytes]


class SecureAggregator:
    """The coordinator learns sums over certified sets of sites, and nothing else."""

    kind = "secure"
    secure = True

    def __init__(
        self, spec: AggregationSpec, *, roster: Roster, store: AttemptStore, rounds: int, receipts: StudyReceipts
    ) -> None:
        """Take up aggregation for one study.

        Args:
            spec: Timeouts, the least number of sites, and how many attempts a round may take.
            roster: The verified roster; its policy is what every site insists on.
            store: Where the state of the current attempt is kept.
            rounds: Training rounds of the plan; after the last one no adverts are asked for.
            receipts: Where attempts are settled and participations are kept.

        Raises:
            RefusedError: The plan allows fewer sites than the roster's policy.
        """
        least = roster.policy.n_min
        if spec.min_sites < least:
            raise RefusedError(f"expected min_sites of {least} or more, as the roster has it, got {spec.min_sites}")
        self.members: frozenset[str] | None = frozenset(entry.site for entry in roster.sites)
        self._spec = spec
        self._roster = roster
        self._store = store
        self._rounds = rounds
        self._receipts = receipts
        self._runs: set[tuple[str, tuple[Work, ...]]] = set()

    def collect(self, channel: Channel, asked: Round, cohort: Mapping[int, str]) -> Collected:
        """See `Aggregator.collect`."""
        self._runs.add((asked.plan_digest, asked.works))
        names = tuple(sorted(cohort.values()))
        failures: dict[str, Failure] = {}
        step = self._take_up(asked)
        if step is None:
            self._settle_stored(asked)
            step = self._begin(asked, names, attempt_number=self._next_attempt(asked))
        for tries in range(1, self._spec.attempts + 1):
            owed = self._receipts.owed()
            play = _Play(channel=channel, asked=asked, cohort=cohort, failures=failures, owed=owed)
            state = self._run(step, play)
            if state.phase is attempt.Phase.DONE:
                return self._collected(server.result(state), asked, failures)
            names = tuple(name for name in state.offer.cohort if name not in failures)
            hopeless = names == state.offer.cohort or len(names) < self._spec.min_sites
            if hopeless or tries == self._spec.attempts:
                raise SiteFailureError(_why(state, failures))
            step = self._begin(asked, names, attempt_number=state.offer.turn.attempt + 1)
        raise SiteFailureError(f"{asked}: expected at least one attempt, got none")

    def finish(self, channel: Channel, cohort: Mapping[int, str]) -> None:
        """Tell the cohort that the runs of this study are over, so that every site erases what is left of them."""
        owed = self._receipts.owed()
        for plan_digest, works in sorted(self._runs):
            message = wire.encode(Finish(run=run_of(plan_digest, works)))
            task = Task(action="query.end", plan_digest=plan_digest, works=works, message=message)
            tasks = {receipt: replace(task, receipt=receipt) for receipt in {b"", *owed.values()}}
            letters = {address: tasks[owed.get(name, b"")] for address, name in sorted(cohort.items())}
            for _ in channel.ask(letters, timeout_s=FAREWELL_TIMEOUT_S):
                pass  # a site that does not hear it erases at its next offer
        self._store.clear()

    # --- attempts --------------------------------------------------------------------------

    def _take_up(self, asked: Round) -> _Step | None:
        """Return the stored attempt at this very round, if there is one to go on with."""
        stored = self._store.load(self._roster)
        if stored is None or not self._is_at(stored[0], asked, asked.number):
            return None
        state = stored[0]
        return None if state.phase is attempt.Phase.ABORTED or state.offer.model != asked.digest() else stored

    def _settle_stored(self, asked: Round) -> None:
        """Settle the attempt that was last begun here, whatever became of it: nobody goes on with it."""
        stored = self._store.load(self._roster)
        if stored is not None:
            self._receipts.settle(stored[0], plan=asked.plan_digest)

    def _next_attempt(self, asked: Round) -> int:
        stored = self._store.load(self._roster)
        if stored is None or not self._is_at(stored[0], asked, asked.number):
            return 0
        return stored[0].offer.turn.attempt + 1

    def _early(self, asked: Round) -> Mapping[str, Advert]:
        """Return the adverts that came with the round before."""
        stored = self._store.load(self._roster)
        if stored is None or not self._is_at(stored[0], asked, asked.number - 1):
            return {}
        return stored[0].early

    def _is_at(self, state: ServerState, asked: Round, number: int) -> bool:
        turn = state.offer.turn
        return (turn.run, turn.round) == (run_of(asked.plan_digest, asked.works), number)

    def _begin(self, asked: Round, names: tuple[str, ...], *, attempt_number: int) -> _Step:
        """Return the first step of an attempt; it raises what every site would refuse."""
        turn = Turn(run=run_of(asked.plan_digest, asked.works), round=asked.number, attempt=attempt_number)
        offer = Offer(
            turn=turn,
            cohort=names,
            threshold=self._roster.policy.threshold_floor(len(names)),
            roster=self._roster.digest(),
            model=asked.digest(),
            lengths=self._lengths(asked),
        )
        early = {} if attempt_number else self._early(asked)
        more = "train.fit" in asked.works and asked.number + 1 < self._rounds
        return server.begin(roster=self._roster, offer=offer, pipeline=more, early=early)

    def _lengths(self, asked: Round) -> tuple[int, ...]:
        filled = {SEGMENTS[work]: asked.size for work in asked.works} | {"aux": 1}
        if len(filled) != len(asked.works) + 1:
            raise RefusedError(f"{asked}: expected kinds of work that fill different segments, got two that fill one")
        missing = filled.keys() - {segment.name for segment in self._roster.policy.segments}
        if missing:
            raise RefusedError(
                f"{asked}: expected segments {', '.join(sorted(missing))} in the roster, got none of them"
            )
        return tuple(filled.get(segment.name, 0) for segment in self._roster.policy.segments)

    # --- exchanges -------------------------------------------------------------------------

    def _run(self, step: _Step, play: _Play) -> ServerState:
        """Carry an attempt to its end, from wherever it is."""
        state, outgoing = step
        self._store.save(state, outgoing)
        while state.phase not in _OVER:
            state, outgoing = self._exchange(state, outgoing, play)
            self._store.save(state, outgoing)
        self._receipts.settle(state, plan=play.asked.plan_digest)
        play = replace(play, owed=self._receipts.owed())
        heard = tuple(item for item in outgoing if item.site not in play.failures)
        for _ in play.channel.ask(_letters(state, heard, play), timeout_s=FAREWELL_TIMEOUT_S):
            pass  # an attempt that is over has nothing to hear
        return state

    def _exchange(self, state: ServerState, outgoing: tuple[Outgoing, ...], play: _Play) -> _Step:
        """Send one phase's messages, take in the replies, and end the phase."""
        phase = state.phase
        trains = phase is attempt.Phase.MASKING
        timeout_s = self._spec.round_timeout_s if trains else self._spec.phase_timeout_s
        following: tuple[Outgoing, ...] = ()
        signed: dict[str, str] = {}
        for address, reply in play.channel.ask(_letters(state, outgoing, play), timeout_s=timeout_s):
            name = play.cohort[address]
            state, more = _take_in(state, name, reply, play.failures, self._checked(state, name, play, signed))
            following += more
            if phase is attempt.Phase.UNMASKING:
                self._store.save(state, outgoing)  # a site unmasks once, so its reply must not be lost
        if trains:
            self._receipts.keep([signed[name] for name in sorted(signed)], turn=state.offer.turn)
        if state.phase is phase:
            faults = len(state.faults)
            state, following = server.step(state, Deadline())
            for fault in state.faults[faults:]:
                play.failures[fault.site] = Failure(site=fault.site, code="ProtocolError", reason=fault.reason)
        return state, following

    def _checked(self, state: ServerState, name: str, play: _Play, signed: dict[str, str]) -> _Check:
        """Return what looks at a message before it counts: an upload needs the site's word for it."""

        def check(event: SiteMessage, reply: Answer) -> None:
            if isinstance(event, Masked):
                signed[name] = self._receipts.check(
                    reply.receipt,
                    plan=play.asked.plan_digest,
                    turn=state.offer.turn,
                    site=name,
                    upload=event.upload.digest,
                    roster=self._roster,
                )

        return check

    def _collected(self, aggregate: Aggregate, asked: Round, failures: Mapping[str, Failure]) -> Collected:
        weight = float(aggregate.sums["aux"][0])
        if weight <= 0:
            raise ProtocolError(f"{asked}: expected a sum of weights above 0, got {weight:g}; a site sent a false one")
        count = len(aggregate.sites)
        sums = {work: self._scaled(aggregate.sums[SEGMENTS[work]]) for work in asked.works}
        totals = {work: RunningSum.of(total, weight=weight, contributions=count) for work, total in sums.items()}
        return Collected(
            totals=totals, sites=aggregate.sites, failures=tuple(failures[name] for name in sorted(failures))
        )

    def _scaled(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sum of w x from that of w / W_max x."""
        return np.multiply(total, self._roster.policy.max_weight, out=total)


def _letters(state: ServerState, outgoing: tuple[Outgoing, ...], play: _Play) -> dict[int, Task]:
    """Return the task of each address; the first message that a site gets of an attempt brings what it starts from."""
    asked = play.asked
    addresses = {name: address for address, name in play.cohort.items()}
    tasks: dict[tuple[bytes, bytes, bool], Task] = {}
    letters: dict[int, Task] = {}
    for item in outgoing:
        message = item.message
        first = isinstance(message, Offer) or (isinstance(message, ShareRequest) and state.adverts[item.site].early)
        receipt = play.owed.get(item.site, b"") if first or isinstance(message, Abort) else b""
        key = (wire.encode(message), receipt, first)
        if key not in tasks:
            tasks[key] = Task(
                action=ACTIONS[type(message)],
                plan_digest=asked.plan_digest,
                round=asked.number,
                works=asked.works,
                arrays=asked.arrays if first else {},
                message=key[0],
                receipt=receipt,
            )
        if item.site in addresses:
            letters[addresses[item.site]] = tasks[key]
    return letters


def _take_in(
    state: ServerState, name: str, reply: Answer | Failure, failures: dict[str, Failure], check: _Check
) -> _Step:
    """Step on one reply; a site that failed, or sent what does not fit, is out of the attempt and is named."""
    turn = state.offer.turn
    try:
        event = _message(name, reply)
        if isinstance(reply, Answer):
            check(event, reply)
        faults = len(state.faults)
        follower, more = server.step(state, event)
        for fault in follower.faults[faults:]:  # it may be another site's, whose shares turned out to be false
            failures[fault.site] = Failure(site=fault.site, code="ProtocolError", reason=fault.reason)
    except SiteFailureError as error:
        failures[name] = Failure(site=name, code=_code(reply), reason=str(error))
    except ProtocolError as error:
        failures[name] = Failure(site=name, code="ProtocolError", reason=str(error))
    else:
        return follower, more
    return server.step(state, Refusal(turn=turn, site=name, reason=failures[name].reason))


def _message(name: str, reply: Answer | Failure) -> SiteMessage:
    """Return the protocol's message in a reply.

    Raises:
        SiteFailureError: The site failed.
        ProtocolError: The reply holds no message of this site.
    """
    if isinstance(reply, Failure):
        raise SiteFailureError(reply.reason)
    message = parcels.join(reply.message, reply.arrays)
    if message.site != name:
        raise ProtocolError(f"expected a message of {name}, got one of another site")
    return message


def _code(reply: Answer | Failure) -> str:
    return reply.code if isinstance(reply, Failure) else "ProtocolError"


def _why(state: ServerState, failures: Mapping[str, Failure]) -> str:
    """Return why an attempt ended, with the reason of each site that failed."""
    reasons = "; ".join(f"{name}: {failure.reason}" for name, failure in sorted(failures.items()))
    return f"{state.failure}{'; ' if reasons else ''}{reasons}"
