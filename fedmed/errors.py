"""The one tree of errors that FedMed raises on purpose.

Why it exists: an administrator reads only the error message. Every message
therefore says, in one line, what was expected, what came and what to do.

Rules:
    * A message never holds patient data, a key, or a path inside another machine.
    * `UsageError` is a mistake on this machine (its user can cure it).
    * `PeerError` is a fault of somebody else on the wire (its user cannot).
    * `RefusedError` is a site saying no under its own policy or budget.
    * `IntegrityError` is stored state that does not verify; nothing is repaired silently.

What it does not do: format tracebacks or choose exit codes beyond `exit_code`;
the command line does that.
"""


class FedMedError(Exception):
    """Base of every error that FedMed raises on purpose."""

    exit_code = 2


class UsageError(FedMedError):
    """A mistake on this machine that the person at the keyboard can cure."""


class ConfigError(UsageError):
    """A configuration key holds a value that it cannot take."""


class DataError(UsageError):
    """A data set, schema or file on this machine is not what its contract says."""


class ModelError(UsageError):
    """A model folder, specification or adapter cannot be built or does not match."""


class PeerError(FedMedError):
    """The other side of the wire broke the contract."""


class ProtocolError(PeerError):
    """A peer sent a message that the protocol does not allow here."""


class SiteFailureError(PeerError):
    """One or more sites failed or did not answer, so a round cannot go on."""


class RefusedError(FedMedError):
    """A site refused a request under its own policy."""


class BudgetError(RefusedError):
    """A request would pass the privacy budget that the site has set."""


class IntegrityError(FedMedError):
    """Stored or received state does not verify, so it is not used."""
