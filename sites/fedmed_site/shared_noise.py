"""The noise that sites share in one sum, and the terms that decide whether the roster's rings can hold it.

Why it exists: a roster that is too coarse or too narrow for the noise of a plan is known before a record is read, so
a site says so before it charges its ledger; and the masking stands on the very same check.

Rules:
    * All of it follows from the plan, the roster and the agreed offer; nothing depends on a record.
    * Terms are those that this site has agreed to, from its sealed state and its verified roster.

What it does not do: draw noise, charge, or know a weight (that depends on records).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fedmed.errors import RefusedError
from fedmed.exchange import SEGMENTS, Work
from fedmed.privacy.skellam import NoiseUnits, noise_units, require_room, require_share
from fedmed.secagg import store
from fedmed.secagg.messages import Offer
from fedmed.secagg.roster import Policy, Segment
from fedmed_site.home import SiteHome
from fedmed_site.membership import Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was agreed for one attempt: the roster's policy and the coordinator's offer."""

    policy: Policy
    offer: Offer

    @property
    def honest(self) -> int:
        """How many honest sites add a share to whatever sum is certified, at least."""
        return self.policy.gate(self.offer.threshold) - self.policy.max_corrupt

    def segment(self, work: Work) -> Segment:
        """Return the segment of the upload that a kind of work goes into."""
        return next(segment for segment in self.policy.segments if segment.name == SEGMENTS[work])

    def length(self, segment: Segment) -> int:
        """Return how many coordinates a segment has in this attempt."""
        return self.offer.lengths[self.policy.segments.index(segment)]


def agreed_terms(home: SiteHome, *, name: str, now: datetime) -> Terms:
    """Return the terms of the attempt that this site takes part in.

    Args:
        home: The site's folder.
        name: The site.
        now: The present time, with its time zone.

    Raises:
        RefusedError: The site takes part in none, or its roster is not in force or another than was agreed.
        IntegrityError: What is stored does not verify.
    """
    state = store.restore(home.secagg_state_path, site=name, site_key=home.seal_key_path.read_bytes())
    roster = Membership(home).roster(now=now)
    if state.advertised is None or state.advertised.offer.roster != roster.digest():
        raise RefusedError("expected terms that were agreed under this site's roster; start again with an offer")
    return Terms(policy=roster.policy, offer=state.advertised.offer)


def require_noise(facts: Mapping[str, str | float], segment: Segment, terms: Terms) -> NoiseUnits:
    """Return sensitivity and noise of a sum in units of the segment's ring, which holds them.

    Args:
        facts: `clip_norm` of what one record adds, `noise_multiplier`, and the `distance` from a Gaussian at most.
        segment: What the sum goes into.
        terms: What was agreed.

    Raises:
        RefusedError: The ring has no room for the noise, makes it too coarse, or a share of it can't be drawn.
    """
    units = noise_units(
        clip_norm=float(facts["clip_norm"]),
        noise_multiplier=float(facts["noise_multiplier"]),
        unit=2.0**segment.fraction_bits / terms.policy.max_weight,
        size=terms.length(segment),
    )
    require_room(units, segment=segment.name, bits=segment.bits, sites=len(terms.offer.cohort), honest=terms.honest)
    if units.distance > float(facts["distance"]):
        raise RefusedError(
            f"expected noise within {float(facts['distance']):.1e} of a Gaussian, the roster's ring gives"
            f" {units.distance:.1e}; sign a roster with a finer {segment.name} or plan for more distance"
        )
    require_share(units.share_variance(terms.honest))
    return units
