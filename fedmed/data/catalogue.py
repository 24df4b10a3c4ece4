"""The data sets that FedMed reads: licence, origin, the files that each needs, and whether a folder has them.

Why it exists: data come from their publishers, under their licences; before a run somebody fetches them, and wants to
know what is still lacking.

Rules:
    * All that is shown stands in the data set's YAML; nothing is fetched.
    * A folder that holds the files of every site is as good as one that holds the publisher's.

What it does not do: open a file.
"""

from dataclasses import dataclass
from pathlib import Path

from fedmed.data.published import missing_files
from fedmed.data.schema import DataSet, sites_under
from fedmed.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One data set: `option` is what `data=` takes, `files` what is expected below `data.root`."""

    option: str
    form: str
    sites: tuple[str, ...]
    targets: tuple[str, ...]
    licence: str
    source: str
    obtain: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What of a data set's files is in `folder`; None if no folder has any of them."""

    folder: Path | None
    found: int
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether a run can start from the folder."""
        return self.folder is not None and not self.missing


def entry_of(option: str, dataset: DataSet) -> Entry:
    """Return what a list says about a data set."""
    schema = dataset.schema
    parts = (("text", schema.text is not None), ("image", schema.image is not None))
    forms = [name for name, there in parts if there]
    forms += ["table"] if any(column.is_feature for column in schema.columns) else []
    return Entry(
        option=option,
        form=" and ".join(forms),
        sites=schema.sites,
        targets=tuple(target.name for target in schema.targets),
        licence=schema.licence,
        source=schema.source,
        obtain=(dataset.pooled.obtain if dataset.pooled else "") or schema.obtain,
        files=_published(dataset) or _of_sites(dataset) or (schema.file,),
    )


def look_for(dataset: DataSet, folder: Path) -> Presence:
    """Say which of the files are in `folder`, or in the folder directly below it that has most of them.

    Raises:
        DataError: `folder` is no folder.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder with data, found none at {folder}; check the path")
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    looked = [_look(dataset, one) for one in (folder, *below)]
    best = max(looked, key=lambda presence: (presence.complete, presence.found))
    if best.found:
        return best
    return Presence(folder=None, found=0, missing=entry_of(dataset.name, dataset).files)


def _look(dataset: DataSet, folder: Path) -> Presence:
    """Return the better of the publisher's files and those of the sites, in one folder."""
    if not dataset.schema.sites:
        return _any_site(dataset, folder)
    choices = [_there(folder, files) for files in (_of_sites(dataset),) if files]
    if dataset.pooled is not None:
        files, missing = dataset.pooled.files, missing_files(folder, dataset)
        choices.insert(0, Presence(folder=folder, found=len(files) - len(missing), missing=missing))
    return max(choices, key=lambda presence: (presence.complete, presence.found))


def _there(folder: Path, files: tuple[str, ...]) -> Presence:
    missing = tuple(name for name in files if not (folder / name).is_file())
    return Presence(folder=folder, found=len(files) - len(missing), missing=missing)


def _any_site(dataset: DataSet, folder: Path) -> Presence:
    try:
        return Presence(folder=folder, found=len(sites_under(folder, dataset.schema)), missing=())
    except DataError:
        return Presence(folder=folder, found=0, missing=(dataset.schema.file,))


def _published(dataset: DataSet) -> tuple[str, ...]:
    return () if dataset.pooled is None else dataset.pooled.files


def _of_sites(dataset: DataSet) -> tuple[str, ...]:
    return tuple(dataset.schema.file.format(site=site) for site in dataset.schema.sites)
