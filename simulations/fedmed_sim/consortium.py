"""The simulated consortium: its key, its roster, and every site's membership.

Why it exists: sites take part only under a roster that a consortium key has signed, in a
simulation as in a hospital; here one machine plays the consortium too.

Rules:
    * The consortium's key is in its own folder, which the simulated coordinator never reads.
    * A roster is signed once per run; a resumed run keeps it.

What it does not do: keep the key safe; a real one is made by `fedmed consortium init`.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmed.crypto.keyfiles import CONSORTIUM, load_public_key
from fedmed.files import write_atomic
from fedmed.records import Plan
from fedmed.secagg.roster import Policy, Roster, RosterEntry, sign_roster
from fedmed.secagg.roster_file import open_roster, roster_to_bytes
from fedmed.signed_plans import SignedPlan, agree_to
from fedmed_sim.deployment import DeploymentFolder
from fedmed_sim.folder import RunFolder
from fedmed_sim.preparation import key_entropy
from fedmed_sim.settings import SimulationSettings, views
from fedmed_site.agent import SiteAgent


def found_consortium(settings: SimulationSettings, folder: RunFolder, names: Sequence[str]) -> None:
    """Make the consortium's key, sign the roster of all sites if they need one, and let every site join.

    Raises:
        ConfigError: The ring is too small for so many sites.
    """
    folder.consortium.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.coordinator.mkdir(parents=True, exist_ok=True)
    agents = {name: SiteAgent.open(folder.sites / name) for name in names}
    if not folder.consortium_key.is_file():
        write_atomic(folder.consortium_key, key_entropy(settings, "consortium")(32))
    key = _key(folder)
    if settings.secagg.kind == "insecure":
        for agent in agents.values():
            agent.membership.pin(key.public_key().public_bytes_raw())
        return
    if not folder.roster.is_file():
        roster = Roster(
            serial=1,
            sites=tuple(
                RosterEntry(site=name, signing_key=agents[name].membership.public_key()) for name in sorted(names)
            ),
            policy=floors(settings, agents),
        )
        write_atomic(folder.roster, roster_to_bytes(sign_roster(roster, key)), mode=0o644)
    for agent in agents.values():
        agent.membership.join(key.public_key().public_bytes_raw(), folder.roster.read_bytes(), now=datetime.now(UTC))


def floors(settings: SimulationSettings, agents: Mapping[str, SiteAgent]) -> Policy:
    """Return the floors that the roster of these sites has, by name.

    Raises:
        ConfigError: The ring is too small for so many sites.
    """
    largest = max(_largest_weight(settings, agent) for agent in agents.values())
    return settings.secagg.policy(
        sites=len(agents),
        max_weight=2.0 ** math.ceil(math.log2(largest)),
        shared_noise=settings.privacy.trust_model == "distributed",
    )


def read_roster(folder: RunFolder) -> Roster:
    """Return the roster, verified under the consortium's key."""
    if folder.deployment.is_dir():
        public = DeploymentFolder(folder.deployment).consortium / "consortium.pub.json"
        key = load_public_key(public, purpose=CONSORTIUM).ed25519()
    else:
        key = _key(folder).public_key()
    return open_roster(folder.roster.read_bytes(), consortium_key=key, least_serial=1, now=datetime.now(UTC))


def sign_plan(folder: RunFolder, plan: Plan) -> SignedPlan:
    """Return `plan` with the simulated consortium's signature."""
    return agree_to(plan, _key(folder))


def _key(folder: RunFolder) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(folder.consortium_key.read_bytes())


def _largest_weight(settings: SimulationSettings, agent: SiteAgent) -> int:
    return max(len(agent.datasets.load(view, "train").labels) for view in views(settings))
