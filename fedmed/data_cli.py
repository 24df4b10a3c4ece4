"""`fedmed data`: which data sets FedMed reads, under which licence, from where, and what of them is here.

Why it exists: no data come with FedMed; whoever wants to run a study fetches them from their publishers first.

Rules:
    * Whatever a file holds is not looked at: names only.
    * A missing file is a finding, not an error.

What it does not do: fetch anything, or check what a table holds (`fedmed site check-data`).
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from fedmed import config
from fedmed.data.catalogue import Entry, Presence, entry_of, look_for
from fedmed.data.schema import DataSet
from fedmed.errors import UsageError

_EXAMPLES = """\
FOLDER may hold the files of one data set, or a folder for each.

  fedmed data list
  fedmed data list downloads
  fedmed data list downloads --json
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are errors of FedMed: one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def data(arguments: Sequence[str]) -> int:
    """Run `fedmed data ARGUMENTS` and return the exit code.

    Raises:
        FedMedError: The one line that the command line shows.
    """
    parsed = parser_of("data").parse_args(arguments)
    return int(parsed.run(parsed))


def parser_of(command: str) -> argparse.ArgumentParser:
    """Return the parser of `data`, for whoever checks what is written about it."""
    parser = _Parser(prog=f"fedmed {command}", description="Look after data sets.", allow_abbrev=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser(
        "list", help="the data sets that FedMed reads, and what of them a folder has", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    listing.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="where to look for the files")
    listing.add_argument("--json", action="store_true", help="as JSON, for machines")
    listing.set_defaults(run=_list)
    return parser


def _list(parsed: argparse.Namespace) -> int:
    found = [
        (entry_of(path.stem, dataset), None if parsed.folder is None else look_for(dataset, parsed.folder))
        for path in sorted((config.config_dir() / "data").glob("*.yaml"))
        for dataset in [config.load(DataSet, path)]
    ]
    if parsed.json:
        print(_as_json(found))  # noqa: T201  the command's output
        return 0
    print("\n\n".join("\n".join(_lines(entry, presence)) for entry, presence in found))  # noqa: T201  likewise
    return 0


def _lines(entry: Entry, presence: Presence | None) -> Iterator[str]:
    """Yield what a person reads about one data set."""
    yield f"data={entry.option}"
    yield f"  form      {entry.form}; targets: {', '.join(entry.targets)}"
    yield f"  sites     {len(entry.sites)}: {', '.join(entry.sites)}" if entry.sites else "  sites     any"
    yield f"  licence   {entry.licence or 'not stated'}"
    yield f"  source    {entry.source or 'not stated'}"
    yield f"  obtain    {entry.obtain or 'not stated'}"
    yield f"  expected  {', '.join(entry.files)}"
    if presence is None:
        return
    if presence.complete:
        yield f"  here      yes: data.root={presence.folder}"
    elif presence.folder is None:
        yield "  here      no"
    else:
        yield f"  here      in part, in {presence.folder}; missing: {', '.join(presence.missing)}"


def _as_json(found: Sequence[tuple[Entry, Presence | None]]) -> str:
    listed = [
        {
            **msgspec.to_builtins(entry),
            "here": None
            if presence is None
            else {
                "complete": presence.complete,
                "folder": None if presence.folder is None else str(presence.folder),
                "missing": list(presence.missing),
            },
        }
        for entry, presence in found
    ]
    return msgspec.json.format(msgspec.json.encode({"version": 1, "data_sets": listed}), indent=2).decode()
