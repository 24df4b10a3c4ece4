"""`fedmed site deidentify` on NIfTI images and their sidecars: the pair stays a pair, and faces need a word."""

import gzip
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fedmed.audit import ChainLog
from fedmed.config import config_dir
from fedmed.deid.pseudonyms import Pseudonyms
from fedmed.errors import ConfigError
from fedmed_sim.phantoms.corpus import Mixture, write_corpus
from fedmed_sim.phantoms.nifti import NiftiForm, NiftiPhantom, draw_nifti
from fedmed_sim.phantoms.people import draw_person
from fedmed_site import cli
from fedmed_site.deidentification_formats import REASONS
from fedmed_site.home import SiteHome
from fedmed_site.manifest import ITEM_KIND, item_name

POLICY = "profile: our-own\ndates: shift\nk: 1\nfree_text: drop\nnifti: {faces: %s}\n"


class Desk:
    """A site, a source, a policy and an output folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.source, self.out = root, root / "home", root / "source", root / "out"
        self.source.mkdir()
        assert cli.site(["init", "--home", str(self.home), "--name", "north"]) == 0

    def draw(self, name: str, seed: int = 5, **form: object) -> NiftiPhantom:
        """Write an image and its sidecar into the source."""
        rng = np.random.default_rng(seed)
        phantom = draw_nifti(rng, draw_person(rng, "en"), name=name, form=NiftiForm(**form))  # type: ignore[arg-type]
        path = self.source / phantom.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(phantom.payload)
        (self.source / f"{name}.json").write_bytes(phantom.sidecar)
        return phantom

    def run(self, *more: str, faces: str = "absent", out: Path | None = None) -> dict[str, object]:
        """Run the command and return its report."""
        policy, target = self.root / "policy.yaml", out or self.out
        policy.write_text(POLICY % faces)
        words = ["deidentify", str(self.source), "--out", str(target), "--home", str(self.home), "--workers", "1"]
        assert cli.site([*words, "--policy", str(policy), *more]) == 0
        report: dict[str, object] = json.loads((target / "report.json").read_text())
        return report

    def records(self) -> list[dict[str, object]]:
        """Return the audit records of items."""
        return [dict(one.body) for one in ChainLog(self.home / "audit.jsonl").entries() if one.kind == ITEM_KIND]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return an empty desk."""
    return Desk(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_image_and_its_sidecar_come_out_under_one_keyed_name(desk: Desk) -> None:
    """Both outputs share a keyed name; nothing planted is in any output, the log, a report or the manifest."""
    phantom = desk.draw("sub-01/anat")
    report = desk.run("--export")
    assert report["kinds"] == {
        "nifti": {"cleaned": 1, "quarantined": 0}, "sidecar": {"cleaned": 1, "quarantined": 0},
    }  # fmt: skip
    items = files(desk.out / "items")
    stems = {name.split(".")[0] for name in items}
    assert len(stems) == 1
    assert {name.removeprefix(min(stems)) for name in items} == {".nii.gz", ".json"}
    image, sidecar = items[f"{min(stems)}.nii.gz"], items[f"{min(stems)}.json"]
    assert gzip.decompress(image)[352:] == phantom.voxels
    told = b"\n".join([*files(desk.out).values(), gzip.decompress(image), (desk.home / "audit.jsonl").read_bytes()])
    assert [one.where for one in phantom.secrets if one.is_in(told)] == []
    pseudonyms = Pseudonyms(SiteHome.open(desk.home).pseudonym_key_path.read_bytes())
    number = json.loads(phantom.sidecar)["PatientID"]
    assert json.loads(sidecar)["patient"] == pseudonyms.token(number)
    assert "NIfTI" in (desk.out / "report.html").read_text()
    record = next(one for one in desk.records() if one["kind"] == "nifti")
    assert (record["tool"], record["facts.faces"]) == ("fedmed.deid.nifti", "absent")
    assert record["output_sha256"] == hashlib.sha256(image).hexdigest()
    assert isinstance(record["facts.nifti.extension_bytes_dropped"], int)
    assert cli.audit(["verify", "--home", str(desk.home)]) == 0


def test_without_a_word_of_the_policy_images_and_sidecars_are_quarantined(desk: Desk, tmp_path: Path) -> None:
    """A shipped policy lets none pass; its sealed copies are held, and the page says why."""
    desk.draw("scan")
    words = ["deidentify", str(desk.source), "--out", str(desk.out), "--home", str(desk.home), "--workers", "1"]
    assert cli.site([*words, "--policy", "hipaa-safe-harbor"]) == 0
    report = json.loads((desk.out / "report.json").read_text())
    assert {reason: len(items) for reason, items in report["quarantine"].items()} == {"nifti-faces": 2}
    assert "faces can be rendered" in (desk.out / "report.html").read_text()
    assert len(list((desk.home / "quarantine").rglob("*.sealed"))) == 2
    assert not (desk.out / "items").exists() or not files(desk.out / "items")


def test_a_shipped_policy_can_not_vouch_for_faces(desk: Desk) -> None:
    """Under a shipped name there is no section about NIfTI; under a name of the site its words are few."""
    policy = desk.root / "p.yaml"
    words = ["deidentify", str(desk.source), "--out", str(desk.out), "--home", str(desk.home), "--policy", str(policy)]
    shipped = config_dir() / "deid" / "hipaa-safe-harbor.yaml"
    policy.write_text(shipped.read_text("utf-8") + "nifti: {faces: absent}\n")
    with pytest.raises(ConfigError, match=r"policy.nifti"):
        cli.site(words)
    policy.write_text(POLICY % "perhaps")
    with pytest.raises(ConfigError, match="faces"):
        cli.site(words)


def test_an_image_of_the_head_contradicts_a_policy_without_faces(desk: Desk) -> None:
    """Its sidecar speaks of the brain, so it stays; it passes where the policy says that faces were removed."""
    desk.draw("brain", body_part="BRAIN")
    desk.draw("chest", seed=6)
    report = desk.run()
    assert {reason: len(items) for reason, items in dict(report["quarantine"]).items()} == {"nifti-head": 1}  # type: ignore[call-overload]
    assert desk.run(faces="removed", out=desk.root / "other")["quarantined"] == 0


def test_a_sidecar_that_changes_is_asked_again(desk: Desk) -> None:
    """An image's fate hangs on more than its own bytes: a sidecar that comes to speak of the head counts."""
    desk.draw("scan")
    desk.run()
    sidecar = desk.source / "scan.json"
    sidecar.write_bytes(sidecar.read_bytes().replace(b'"CHEST"', b'"BRAIN"'))
    report = desk.run()
    assert {reason: len(items) for reason, items in dict(report["quarantine"]).items()} == {"nifti-head": 1}  # type: ignore[call-overload]
    assert not list((desk.out / "items").rglob("*.nii.gz*"))


def test_names_of_the_source_stay_if_that_was_asked_for(desk: Desk) -> None:
    """With --names same the pair keeps its BIDS path; sealed, it opens to the same bytes as the keyed one."""
    desk.draw("sub-01/anat/sub-01_T2w")
    desk.run("--names", "same")
    names = {"sub-01/anat/sub-01_T2w.nii.gz", "sub-01/anat/sub-01_T2w.json"}
    assert set(files(desk.out / "items")) == {f"{name}.sealed" for name in names}
    assert cli.site(["unseal", str(desk.out), "--to", str(desk.root / "plain"), "--home", str(desk.home)]) == 0
    assert set(files(desk.root / "plain")) == names
    desk.run("--export", out=desk.root / "keyed")
    assert set(files(desk.root / "keyed" / "items").values()) == set(files(desk.root / "plain").values())


def test_json_without_an_image_and_halves_of_a_pair_are_quarantined(desk: Desk) -> None:
    """JSON beside nothing is of no known kind; .hdr and .img are told apart from what is merely unknown."""
    (desk.source / "alone.json").write_text("{}")
    for name in ("a.hdr", "a.img", "b.hdr.gz"):
        (desk.source / name).write_bytes(bytes(348))
    report = desk.run()
    assert {reason: len(items) for reason, items in dict(report["quarantine"]).items()} == {  # type: ignore[call-overload]
        "nifti-pair": 3, "unknown-kind": 1,
    }  # fmt: skip


def test_a_sidecar_whose_image_has_gone_leaves_no_output_behind(desk: Desk) -> None:
    """The JSON is of no known kind then: its output goes, and the folder verifies."""
    phantom = desk.draw("scan")
    desk.run()
    (desk.source / phantom.name).unlink()
    desk.run()
    assert not list((desk.out / "items").rglob("*.json.sealed"))


def test_a_second_run_does_nothing_and_a_dry_run_leaves_nothing(desk: Desk) -> None:
    """What is done is skipped; a dry run counts images and writes none."""
    desk.draw("scan")
    words = ["deidentify", str(desk.source), "--out", str(desk.root / "dry"), "--home", str(desk.home)]
    policy = desk.root / "policy.yaml"
    policy.write_text(POLICY % "absent")
    assert cli.site([*words, "--policy", str(policy), "--workers", "1", "--dry-run"]) == 0
    preview = json.loads((desk.root / "dry" / "preview.json").read_text())
    assert preview["kinds"]["nifti"] == {"cleaned": 1, "quarantined": 0}
    assert {path.name for path in (desk.root / "dry").iterdir()} == {
        "preview.html", "preview.json", "quarantine.csv", ".lock",
    }  # fmt: skip
    desk.run()
    before = files(desk.out / "items")
    report = desk.run()
    assert (report["this_run_done"], report["this_run_skipped"]) == (0, 2)
    assert files(desk.out / "items") == before


def test_of_a_corpus_every_sound_image_is_out_and_every_broken_one_quarantined(desk: Desk) -> None:
    """Of 60 images and sidecars, a fifth broken: none lost, none with its voxels changed, none with a planted text."""
    desk.source.rmdir()
    manifest = desk.root / "truths.jsonl"
    mixture = Mixture(dicom=0, csv=0, txt=0, jsonl=0, nifti=1)
    write_corpus(desk.source, manifest, seed=4, files=60, corrupt_fraction=0.2, mixture=mixture)
    truths = [json.loads(line) for line in manifest.read_text("utf-8").splitlines()]
    desk.run("--export", faces="removed")
    pseudonyms = Pseudonyms(SiteHome.open(desk.home).pseudonym_key_path.read_bytes())
    bodies = {str(one["item"]): one for one in desk.records()}
    assert len(bodies) == 60
    outputs = {hashlib.sha256(data).hexdigest(): data for data in files(desk.out / "items").values()}
    for truth in truths:
        record = bodies[item_name(truth["path"], pseudonyms)]
        if truth["corrupt"] or truth.get("look") in {"colour", "slice"}:
            assert record["outcome"] == "quarantined", truth["path"]
            assert record["reason"] in REASONS
            continue
        assert record["outcome"] == "cleaned", (truth["path"], record["reason"])
        data = outputs[str(record["output_sha256"])]
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        assert not [one for one in truth["secrets"] if "text" in one and one["text"].encode() in data]
        assert not [one for one in truth["secrets"] if "hex" in one and bytes.fromhex(one["hex"]) in data]
        if truth["kind"] == "NIFTI":
            voxels = data[352:] if data[344:347] == b"n+1" else data[544:]
            assert hashlib.sha256(voxels).hexdigest() == truth["voxels_sha256"]
