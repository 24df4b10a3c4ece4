"""The coordinator's sum doesn't depend on who answers first, and names who is missing."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import build_consortium
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import ProtocolError, SiteFailureError
from fedmed.exchange import Answer, Failure, Round, Task
from fedmed.records import AggregationSpec, digest
from fedmed_server.aggregators import Collected, InsecureAggregator, gather
from fedmed_server.channel import Traffic

TASK = Task(action="train.fit", plan_digest="p", round=3)
ROUND = Round(works=("train.fit",), plan_digest="p", number=3, size=1)
SPEC = AggregationSpec(kind="insecure", min_sites=2, round_timeout_s=5.0)


@dataclass
class Arrivals:
    """A channel on which replies arrive in the order in which they are written here."""

    replies: Mapping[int, Answer | Failure]
    traffic: Traffic = field(default_factory=Traffic)
    asked: list[tuple[tuple[int, ...], float]] = field(default_factory=list)

    def addresses(self) -> tuple[int, ...]:
        return tuple(sorted(self.replies))

    def ask(self, tasks: Mapping[int, Task], *, timeout_s: float) -> Iterator[tuple[int, Answer | Failure]]:
        self.asked.append((tuple(tasks), timeout_s))
        yield from self.replies.items()


def answer(site: str, *values: float, weight: Any = 1.0) -> Answer:
    """Return a site's mean update and how many records it stands for."""
    return Answer(site=site, arrays={"mean": np.array(values, dtype=np.float32)}, facts={"weight": weight})


def collect(
    replies: Mapping[int, Answer | Failure], spec: AggregationSpec = SPEC, size: int | None = None
) -> Collected:
    """Aggregate replies of sites whose addresses and names the coordinator knows: 0 is a, 1 is b and so on."""
    size = (
        max(
            (
                reply.arrays["mean"].size
                for reply in replies.values()
                if isinstance(reply, Answer) and "mean" in reply.arrays
            ),
            default=1,
        )
        if size is None
        else size
    )
    asked = Round(works=("train.fit",), plan_digest="p", number=3, size=size)
    return InsecureAggregator(spec).collect(Arrivals(replies), asked, {i: "abcdef"[i] for i in sorted(replies)})


@given(
    st.lists(
        st.tuples(
            st.lists(st.floats(-1e8, 1e8, width=32), min_size=3, max_size=3),
            st.floats(0.5, 1e4),
        ),
        min_size=2,
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_changes_no_bit(updates: list[tuple[list[float], float]], random: Any):
    """A run can be repeated to the last bit, however fast each hospital's line is."""
    replies = {i: answer("abcdef"[i], *values, weight=weight) for i, (values, weight) in enumerate(updates)}
    shuffled = list(replies)
    random.shuffle(shuffled)
    one, other = collect(replies), collect({i: replies[i] for i in shuffled})
    assert one.totals["train.fit"].vector.tobytes() == other.totals["train.fit"].vector.tobytes()
    assert (one.totals["train.fit"].weight, one.sites) == (other.totals["train.fit"].weight, other.sites)


def test_the_sum_is_over_all_records_of_all_sites():
    """Sums and weights add up; the sites are named in order."""
    found = collect({1: answer("b", 2.5, 5, weight=4.0), 0: answer("a", 1, 2, weight=1.0)})
    assert found.totals["train.fit"].vector.tolist() == [11, 22]
    assert (found.totals["train.fit"].weight, found.sites, found.failures) == (5.0, ("a", "b"), ())


def test_the_cohort_is_asked_with_the_plans_patience():
    """Only the cohort is asked, once, and not waited for longer than the plan says."""
    channel = Arrivals({0: answer("a", 1), 2: answer("c", 1)})
    InsecureAggregator(SPEC).collect(channel, ROUND, {2: "c", 0: "a"})
    assert channel.asked == [((0, 2), 5.0)]


def test_a_failing_site_is_left_out_and_reported():
    """The round goes on with the others, and says who is missing and why, by the name that the cohort knows."""
    found = collect(
        {
            0: answer("a", 1),
            2: Failure(site="", code="timeout", reason="no reply within 5 seconds"),
            1: Failure(site="liar", code="BudgetError", reason="nothing left"),
            3: answer("d", 2),
        }
    )
    assert found.sites == ("a", "d")
    assert found.failures == (
        Failure(site="b", code="BudgetError", reason="nothing left"),
        Failure(site="c", code="timeout", reason="no reply within 5 seconds"),
    )


def test_too_few_sites_end_the_round_and_name_everybody_missing():
    """The message is all that an administrator reads: which round, how many, who and why."""
    replies = {
        0: answer("a", 1),
        1: Failure(site="b", code="timeout", reason="no reply within 5 seconds"),
        2: Failure(site="c", code="BudgetError", reason="nothing left"),
    }
    with pytest.raises(SiteFailureError) as caught:
        collect(replies)
    assert str(caught.value) == (
        "train.fit 3: expected answers of at least 2 sites, got 1; b: no reply within 5 seconds; c: nothing left"
    )


def test_nobody_is_too_few():
    """Also where the plan would be content with one."""
    with pytest.raises(SiteFailureError, match="at least 1 sites, got 0; nobody is connected"):
        collect({}, AggregationSpec(kind="insecure", min_sites=1))


@pytest.mark.parametrize(
    "bad",
    [
        answer("b", 1),
        answer("b", 1, 2, 3),
        answer("b", math.nan, 2),
        answer("b", 1, math.inf),
        answer("b", 1, 2, weight=0.0),
        answer("b", 1, 2, weight=-3.0),
        answer("b", 1, 2, weight=math.nan),
        answer("b", 1, 2, weight=math.inf),
    ],
    ids=["short", "long", "nan", "infinite", "no weight", "negative weight", "weight nan", "weight infinite"],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_unusable_update_is_refused(bad: Answer, first: bool):  # noqa: FBT001  a case
    """One site can't make the model of all others not a number, wherever it stands in the order."""
    good = answer("a", 1, 2)
    with pytest.raises(ProtocolError):
        collect({0: bad, 1: good} if first else {0: good, 1: bad}, size=2)


@pytest.mark.parametrize(
    "bad",
    [
        Answer(site="b", facts={"weight": 1.0}),
        Answer(site="b", arrays={"mean": np.ones(2, np.float32)}),
        answer("b", 1, 2, weight="many"),
        Answer(site="b", arrays={"mean": np.float32(1.0)}, facts={"weight": 1.0}),  # type: ignore[dict-item]
    ],
    ids=["no mean", "no weight", "weight in words", "a number for a mean"],
)
def test_an_answer_without_an_update_is_refused(bad: Answer):
    """A site of another version, or a hostile one, ends the round with a reason and not with a crash."""
    with pytest.raises(ProtocolError):
        collect({0: answer("a", 1, 2), 1: bad}, size=2)
    with pytest.raises(ProtocolError):
        collect({0: bad, 1: answer("b", 1, 2)}, size=2)


def test_an_unusable_update_names_its_site():
    """Somebody has to be called."""
    with pytest.raises(ProtocolError, match=r"\bb\b"):
        collect({0: answer("a", 1, 2), 1: answer("b", 1)}, size=2)


def test_contributors_are_named_by_the_cohort_and_not_by_themselves():
    """A hospital can't take part in another one's name."""
    assert collect({0: answer("a", 1), 1: answer("a", 1)}).sites == ("a", "b")


def test_gather_names_unknown_nodes():
    """Before names are known, a failure without one is named by its address."""
    answers, failures = gather(
        Arrivals({7: Failure(site="", code="timeout", reason="r"), 2: answer("z", 1)}), TASK, {7: "", 2: ""},
        timeout_s=1.0,
    )  # fmt: skip
    assert list(answers) == ["z"]
    assert [f.site for f in failures] == ["node 7"]


def test_real_sites_add_up(tmp_path: Path):
    """Over a federation in memory: the weight is every site's number of training records, the silent one missing."""
    consortium = build_consortium(tmp_path, sites=3, rows=60)
    plan = consortium.plan()
    channel = consortium.channel(plan)
    channel.silent = {1}
    asked = Round(works=("train.fit",), plan_digest=digest(plan), arrays={"model": np.zeros(4, np.float32)}, size=4)
    found = InsecureAggregator(plan.aggregation).collect(channel, asked, {0: "h1", 1: "h2", 2: "h3"})
    replies = [reply for _, _, reply in channel.seen if isinstance(reply, Answer)]
    assert found.sites == ("h1", "h3")
    assert [f.site for f in found.failures] == ["h2"]
    assert found.totals["train.fit"].weight == sum(float(reply.facts["weight"]) for reply in replies)
    terms = [reply.arrays["mean"].astype(float) * float(reply.facts["weight"]) for reply in replies]
    assert np.array_equal(found.totals["train.fit"].vector, np.sum(terms, axis=0))
