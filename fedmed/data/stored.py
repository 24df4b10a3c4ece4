"""The files of a prepared data set: sealed on the disk, open in memory only.

Why it exists: records lie at a site for years. Whoever gets them without the site's keys must be able to read nothing,
not even what was de-identified.

Rules:
    * A file is sealed under the data set's own key and its place, so that none can take another's place.
    * It is opened in memory; nothing readable is written, not even for a moment.
    * A readable file, as an earlier release wrote it, is read too. Whether bytes may be used is the audit log's matter.

What it does not do: keep keys (the site does), or ask the audit log (see `tabular` and `parts`).
"""

from pathlib import Path

from fedmed.crypto.seal import SEALED_SUFFIX, DataKey, Seal, unseal
from fedmed.errors import IntegrityError


def sealed_path(folder: Path, file: str) -> Path:
    """Return where a sealed file of a data set lies.

    >>> sealed_path(Path("tiny"), "table.parquet").as_posix()
    'tiny/table.parquet.sealed'
    """
    return folder / f"{file}{SEALED_SUFFIX}"


def seal_of(data_set: str, file: str, key: DataKey | None) -> Seal | None:
    """Return what a file of a data set is sealed under, or None without a key."""
    return None if key is None else Seal(key=key, name=f"{data_set} {file}")


def stored_bytes(folder: Path, file: str, *, data_set: str, key: DataKey | None) -> bytes | None:
    """Return a file of a data set, or None where there is none.

    Args:
        folder: The data set's folder.
        file: The name of the readable file.
        data_set: Whose it is.
        key: The data set's key; None where nothing is sealed.

    Raises:
        IntegrityError: It is sealed, and there is no key or it does not open under it.
    """
    sealed, seal = sealed_path(folder, file), seal_of(data_set, file, key)
    if not sealed.is_file():
        plain = folder / file
        return plain.read_bytes() if plain.is_file() else None
    if seal is None:
        raise IntegrityError(f"{data_set}: {sealed.name} is sealed and no key was given; open it through the site")
    try:
        return unseal(sealed.read_bytes(), key=seal.key, name=seal.name)
    except IntegrityError:
        raise IntegrityError(
            f"{data_set}: {sealed.name} does not open under the data set's key: the bytes are not those that were"
            " sealed, so it is not used; de-identify the table again"
        ) from None
