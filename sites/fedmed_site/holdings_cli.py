"""`fedmed site prepare` and `fedmed site base`: bring in the records and the base models that studies will use.

Why it exists: a plan names data and a base model by digest, and a site takes part only with what it already holds.

Rules:
    * Records come in through de-identification and the audit log, and the raw file stays where it was.
    * A base model is taken in under the digest of its own bytes; an existing one is never overwritten.

What it does not do: fetch anything, or allow a study to use what was brought in (`fedmed site policy allow`).
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fedmed.audit import ChainLog
from fedmed.errors import UsageError
from fedmed_site.approvals import utc_now, written
from fedmed_site.console import Commands, add, add_home, opened, say, user_name
from fedmed_site.home import SiteHome

if TYPE_CHECKING:
    from fedmed.data.schema import DataSet

BASE_KIND: Final = "base-added"
_PREPARE: Final = """\
--data names a data set that FedMed ships (--list names them), or a YAML file with the same keys: columns and their
roles, targets, split. Every site of a study needs the same description: the plan names its digest.

SOURCE is a raw table, which is de-identified and kept sealed, or a folder that `fedmed site deidentify --data` wrote,
whose sealed items stay where they are:

  fedmed site prepare processed.cleveland.data --data heart_disease
  fedmed site prepare OUT --data heart_disease
"""


def add_commands(commands: Commands) -> None:
    """Add the commands to `fedmed site`."""
    prepare = add(
        commands,
        "prepare",
        "keep a table, or a de-identified folder, as a data set for studies",
        _prepare,
        after=_PREPARE,
    )
    prepare.add_argument("source", type=Path, nargs="?", metavar="SOURCE", help="a raw table, or what deidentify wrote")
    prepare.add_argument("--data", metavar="NAME|FILE", help="what its columns are")
    prepare.add_argument("--list", action="store_true", help="name the data sets that FedMed ships")
    base = add(commands, "base", "take in a base model that studies start from", _base)
    base.add_argument("folder", type=Path, metavar="FOLDER", help="as the coordinator handed it out")
    base.add_argument("--digest", metavar="HEX", help="what the plan names; refused if the folder has another")
    for parser in (prepare, base):
        add_home(parser)


def _prepare(parsed: argparse.Namespace) -> int:
    from fedmed import config  # noqa: PLC0415  hydra, for this command alone
    from fedmed.deid.policy import DeidPolicy  # noqa: PLC0415  other commands start without the engines
    from fedmed_site.agent import SiteAgent  # noqa: PLC0415  likewise

    if parsed.list:
        say("\n".join(path.stem for path in sorted((config.config_dir() / "data").glob("*.yaml"))))
        return 0
    if parsed.source is None or parsed.data is None:
        raise UsageError("expected SOURCE and --data NAME|FILE; fedmed site prepare --help shows an example")
    if not parsed.source.exists():
        raise UsageError(f"{parsed.source}: expected a table or a folder, found no such file; check the path")
    dataset, home = described(parsed.data), opened(parsed)
    if parsed.source.is_dir():
        return _register(parsed.source, dataset, home)
    agent = SiteAgent(home)
    policy = DeidPolicy(free_text="drop" if dataset.schema.text is None else "clean")  # a model reads its text
    report = agent.prepare(parsed.source, dataset, policy)
    say(f"{dataset.name}: {report.rows_kept} of {report.rows_read} rows kept, schema {report.schema_digest[:12]}")
    if report.rows_quarantined or report.rows_incomplete:
        aside = home.data(dataset.name) / "quarantine.csv"
        say(f"{report.rows_quarantined} set aside, {report.rows_incomplete} incomplete: lines and reasons in {aside}")
    if dataset.schema.image is not None:
        pictures = agent.datasets.images(dataset.name)
        say(f"images: {pictures.images} read, {pictures.missing} rows name none, {pictures.unreadable} unreadable")
    _say_targets(dataset)
    return 0


def described(name: str) -> "DataSet":
    """Return the data set that a shipped name or a YAML file describes."""
    from fedmed import config  # noqa: PLC0415  hydra, for few commands alone
    from fedmed.data.schema import DataSet  # noqa: PLC0415  likewise

    shipped = config.config_dir() / "data" / f"{name}.yaml"
    return config.load(DataSet, shipped if shipped.is_file() else Path(name))


def _register(folder: Path, dataset: "DataSet", home: SiteHome) -> int:
    from fedmed_site.agent import SiteAgent  # noqa: PLC0415  other commands start without the engines

    found = SiteAgent(home).register(folder, dataset)
    digest = dataset.schema.digest[:12]
    say(f"{dataset.name}: {found.table.height} rows in {found.items} items, each as recorded, schema {digest}")
    if found.images is not None:
        say(f"images of {len(found.images)} patients")
    if found.unpaired:
        say(f"{found.unpaired} rows have no image: of patients with several rows and several series none is known")
    _say_targets(dataset)
    return 0


def _say_targets(dataset: "DataSet") -> None:
    for target in dataset.schema.targets:
        say(f"to let studies use it: fedmed site policy allow {dataset.name} {target.name}")


def _base(parsed: argparse.Namespace) -> int:
    from fedmed.models.folder import folder_digest  # noqa: PLC0415  it imports torch

    if not parsed.folder.is_dir():
        raise UsageError(f"{parsed.folder}: expected a folder with a base model, found none; check the path")
    home = opened(parsed)
    home.models.mkdir(exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=home.models) as incoming:
        copy = Path(incoming) / "base"
        _copy(parsed.folder, copy)
        digest = folder_digest(copy)  # of the copy: what was looked at is what is kept
        if parsed.digest is not None and digest != parsed.digest.lower():
            raise UsageError(
                f"expected the base model {parsed.digest[:12]}, this folder is {digest[:12]}; fetch it again"
            )
        if (home.models / digest).exists():
            say(f"this site holds the base model {digest} already")
            return 0
        ChainLog(home.audit_path).append(
            BASE_KIND, {"base": digest, "by": user_name(os.getuid()), "at": written(utc_now())}
        )
        copy.rename(home.models / digest)
    say(f"base model {digest}")
    return 0


def _copy(source: Path, target: Path) -> None:
    """Copy plain files and folders of them, for the owner alone.

    Raises:
        UsageError: There is a link, or anything else.
    """
    target.mkdir(mode=0o700)
    for path in sorted(source.iterdir()):
        if path.is_dir() and not path.is_symlink():
            _copy(path, target / path.name)
            continue
        if path.is_symlink() or not path.is_file():
            raise UsageError(f"{path}: expected plain files in a base model, found something else; take it out")
        shutil.copyfile(path, target / path.name)
        (target / path.name).chmod(0o600)
