"""Sealed items, opened for who may read them: the site itself, or a recipient with a private key.

Why it exists: a folder that nobody can open is of no use to the study that it was made for.

Rules:
    * Only items of the manifest are opened, each under the name it was sealed by; one that does not verify stops all.
    * The result is compared with the digest that the manifest gives.

What it does not do: ask the audit log; `fedmed audit verify` does, at the site.
"""

from pathlib import Path, PurePosixPath

import msgspec

from fedmed.crypto.seal import SEALED_SUFFIX, DataKey, unseal_file
from fedmed.errors import IntegrityError, UsageError
from fedmed_site.data_keys import DataKeys, open_by_recipient
from fedmed_site.deidentification_items import seal_name, sha256_of
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEMS_FOLDER, MANIFEST_FILE, read_batch


class _Item(msgspec.Struct):
    """What is read of an item of the manifest."""

    item: str
    outcome: str
    path: str
    output_sha256: str


class _Manifest(msgspec.Struct):
    """What is read of a manifest."""

    batch: str
    version: int
    items: list[_Item]


def unseal_folder(
    out: Path, target: Path, *, home: SiteHome | None, key_file: Path | None = None, passphrase_file: Path | None = None
) -> int:
    """Open every sealed item of a folder into `target` and return how many there were.

    Args:
        out: What de-identification wrote.
        target: A new or empty folder.
        home: The site, if its own key is to be used.
        key_file: Else a recipient's RSA private key in PEM.
        passphrase_file: Of an encrypted private key.

    Raises:
        UsageError: The folder holds no sealed items, the target is not empty, or the key is another one.
        IntegrityError: An item or the manifest does not verify.
    """
    batch = read_batch(out)
    if batch is None or not (out / MANIFEST_FILE).is_file():
        raise UsageError(f"expected a finished folder of deidentify at {out}, found no manifest.json; give that folder")
    if batch.form != "sealed":
        raise UsageError("the items of this folder are readable already; there is nothing to open")
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"expected a new or empty folder at {target}, found files; choose another --to")
    if home is not None:
        key = DataKeys(home).of_batch(batch.batch, dry_run=False)
    elif key_file is not None:
        key = open_by_recipient(out, key_file, passphrase_file)
    else:
        raise UsageError("expected the site's folder or a recipient's private key; say --home or --key")
    try:
        manifest = msgspec.json.decode((out / MANIFEST_FILE).read_bytes(), type=_Manifest)
    except msgspec.DecodeError:
        raise IntegrityError("manifest.json is not of version 1; take it from a backup") from None
    cleaned = [item for item in manifest.items if item.outcome == "cleaned"]
    for item in cleaned:
        _open(out, target, item, key_name=seal_name(batch.batch, item.item), key=key)
    return len(cleaned)


def _open(out: Path, target: Path, item: _Item, *, key_name: str, key: DataKey) -> None:
    relative = PurePosixPath(item.path)
    parts = relative.parts
    if not parts or parts[0] != ITEMS_FOLDER or ".." in parts or not item.path.endswith(SEALED_SUFFIX):
        raise IntegrityError(f"manifest.json: item {item.item[:32]} lies in no place of an item; take it from a backup")
    plain = target / PurePosixPath(*parts[1:]).with_name(relative.name.removesuffix(SEALED_SUFFIX))
    plain.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unseal_file(out / relative, plain, key=key, name=key_name)
    if sha256_of(plain) != item.output_sha256:
        plain.unlink()
        raise IntegrityError(f"item {item.item[:32]}: not what manifest.json says; take the folder from a backup")
