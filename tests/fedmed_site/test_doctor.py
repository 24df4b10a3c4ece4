"""The doctor's look at machine and folder: each fault is found by its own check, with a cure; nothing is changed."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from federation import build_consortium
from offices import SITE, Office, tree
from plans import plan_of

from fedmed.audit import ChainLog
from fedmed.errors import IntegrityError
from fedmed.files import write_atomic
from fedmed.records import MachineSpec, canonical_json
from fedmed_site import cli, doctor_cli, doctor_machine, doctor_site
from fedmed_site.agent import SiteAgent
from fedmed_site.approvals import Approvals
from fedmed_site.control import ControlServer
from fedmed_site.control_records import SiteStatus
from fedmed_site.doctor import Check, Finding, Patient, all_checks, bad, examine, machine, ok, warn
from fedmed_site.folder_desk import FolderDesk
from fedmed_site.home import SiteHome
from fedmed_site.policy import AllowedView

GIB = 1 << 30


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Return a consortium that one site has joined."""
    return Office(tmp_path).founded().joined("north")


@pytest.fixture
def patient(office: Office) -> Patient:
    """Return the site that joined, in a world where it is the office's day."""
    return patient_of(SiteHome.open(office.home("north")), office)


@pytest.fixture
def prepared(tmp_path: Path) -> Patient:
    """Return a site with a data set, a ledger, a base model and a roster."""
    consortium = build_consortium(tmp_path, sites=3)
    home = SiteHome.open(consortium.homes[0])
    agent = SiteAgent(home)
    Approvals(home, agent.audit).note(consortium.plan(), now=Office(tmp_path).now)
    Approvals(home, agent.audit).decide(consortium.plan().study, "approved", by="ann", now=Office(tmp_path).now)
    return patient_of(home, Office(tmp_path))


def patient_of(home: SiteHome, office: Office) -> Patient:
    """Return a patient with memory enough and no accelerator."""
    return Patient(
        home=home,
        secret=SITE,
        now=lambda: office.now,
        free_memory=lambda: 64 * GIB,
        machine=lambda _spec: "a processor",
    )


def one(check: Check, patient: Patient) -> Finding:
    """Return the one finding of a check."""
    (finding,) = examine(patient, [("x", check)])
    return finding


def levels(findings: Sequence[Finding]) -> list[str]:
    """Return how bad each finding is."""
    return [finding.level for finding in findings]


# --- the machine -----------------------------------------------------------------------------


def test_what_is_installed_fits(patient: Patient):
    """The pins of FedMed's own package are met here, where its tests run."""
    assert one(doctor_machine.versions, patient).level == "ok"


def test_another_version_is_red(patient: Patient, monkeypatch: pytest.MonkeyPatch):
    """A pinned package of another version, or none, is named with what was expected."""
    monkeypatch.setattr(
        "importlib.metadata.requires", lambda _: ["flwr==1.40.*", "no-such-package>=1", "x>1; extra == 'dev'"]
    )
    found = one(doctor_machine.versions, patient)
    assert found.level == "bad"
    assert "flwr==1.40.*, found 1.4" in found.found
    assert "no-such-package>=1 is missing" in found.found


def test_a_folder_for_its_owner_only(patient: Patient):
    """As it is made, nobody else can get at anything."""
    assert one(doctor_machine.folder, patient).level == "ok"


@pytest.mark.parametrize("name", ["", "keys", "keys/signing.key", "tls/current/client.key", "audit.jsonl", "site.json"])
def test_a_file_that_others_can_read_is_red(patient: Patient, name: str):
    """Each private part is looked at, and the cure is a command."""
    path = patient.home.root / name
    path.chmod(path.stat().st_mode | 0o040)
    found = one(doctor_machine.folder, patient)
    assert (found.level, found.cure) == ("bad", f"chmod -R go= {patient.home.root}")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a file away")
def test_a_file_of_somebody_else_is_red(patient: Patient):
    """What root left behind in the folder stops the agent; it is named."""
    os.chown(patient.home.signing_key_path, 54321, -1)
    assert "signing.key belong to somebody else" in one(doctor_machine.folder, patient).found
    os.chown(patient.home.root, 54321, -1)
    assert "do this as 54321" in one(doctor_machine.folder, patient).cure


@pytest.mark.parametrize(("free", "level"), [(GIB // 8, "bad"), (GIB // 2, "warn"), (2 * GIB, "ok")])
def test_disk_is_compared_with_what_a_study_needs(
    patient: Patient, monkeypatch: pytest.MonkeyPatch, free: int, level: str
):
    """Too little for a log entry is red, too little for the largest study is yellow."""
    usage = shutil.disk_usage(patient.home.root)._replace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert one(doctor_machine.disk, patient).level == level


def test_memory_is_compared_with_the_largest_base(patient: Patient):
    """A study with a large base asks for more memory, before it starts; a rejected one asks for none."""
    home, plan = patient.home, plan_of("large")
    approvals = Approvals(home, ChainLog(home.audit_path))
    approvals.note(plan, now=patient.now())
    base = home.models / plan.base_digest
    base.mkdir()
    with (base / "model.safetensors").open("wb") as file:
        file.truncate(GIB)  # sparse
    small = replace(patient, free_memory=lambda: 3 * GIB)
    assert one(doctor_machine.memory, small).level == "warn"
    approvals.decide("large", "rejected", by="ann", now=patient.now())
    assert one(doctor_machine.memory, small).level == "ok"


def test_an_accelerator_is_never_needed(patient: Patient):
    """Without one the finding is green and names the processor with what it can do; one that is there is named."""
    found = one(doctor_machine.accelerator, replace(patient, machine=machine))
    assert found.level == "ok"
    assert "(cpu)" in found.found
    assert "fp32 bf16 fp16" in found.found
    assert one(doctor_machine.accelerator, replace(patient, machine=lambda _spec: "H100")).found == "H100"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a graphics card")
def test_a_site_that_is_set_to_a_card_that_is_not_there_is_red(patient: Patient):
    """Every study would be refused, and the cure is a command."""
    home = patient.home
    write_atomic(home.record_path, canonical_json(replace(home.record(), machine=MachineSpec(device="cuda"))))
    found = one(doctor_machine.accelerator, replace(patient, machine=machine))
    assert (found.level, found.cure) == ("bad", "fedmed site machine --device auto")


# --- the folder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [(1, "ok", "88 days"), (77, "warn", "12 days"), (91, "bad", "expired"), (-2, "bad", "behind")],
)
def test_the_certificates_dates(office: Office, patient: Patient, days: int, level: str, words: str):
    """Yellow in its last two weeks, red after them; a clock that is behind it is told apart."""
    later = replace(patient, now=lambda: office.now + timedelta(days=days))
    found = one(doctor_site.certificate, later)
    assert found.level == level
    assert words in found.found + found.cure


def test_a_certificate_of_other_keys_is_red(patient: Patient):
    """A kit that isn't for this site's keys is found before the network is asked."""
    patient.home.signing_key_path.write_bytes(bytes(32))
    assert "for this site's own keys" in one(doctor_site.certificate, patient).found


def test_a_site_without_a_consortium_is_yellow(tmp_path: Path, office: Office):
    """It can de-identify, and is told how to join."""
    assert cli.site(["init", "--home", str(tmp_path / "new"), "--name", "new"]) == 0
    fresh = patient_of(SiteHome.open(tmp_path / "new"), office)
    findings = list(examine(fresh, all_checks()))
    assert "bad" not in levels(findings)
    assert "fedmed site join" in one(doctor_site.certificate, fresh).cure


def test_the_roster_in_force(prepared: Patient):
    """The site stands in it under its own key, or it is red."""
    assert one(doctor_site.roster, prepared).level == "ok"
    prepared.home.signing_key_path.write_bytes(bytes(range(32)))
    found = one(doctor_site.roster, prepared)
    assert (found.level, "another key" in found.found) == ("bad", True)


def test_a_changed_roster_is_red(prepared: Patient):
    """A roster that the consortium did not sign is found."""
    path = prepared.home.consortium / "roster.json"
    path.write_bytes(path.read_bytes().replace(b'"serial":', b'"serial":9', 1))
    assert one(doctor_site.roster, prepared).level == "bad"


def test_a_policy_that_lets_nothing_or_too_much_through(prepared: Patient):
    """No view is yellow, one without data too; noise that repeats is red."""
    record = prepared.home.record()

    def with_policy(**change: object) -> Finding:
        policy = replace(record.policy, **change)  # type: ignore[arg-type]
        prepared.home.record_path.write_bytes(canonical_json(replace(record, policy=policy)))
        return one(doctor_site.policy, prepared)

    assert with_policy().level == "bad"
    assert with_policy(allow_simulated_noise=False).level == "ok"
    assert with_policy(allow_simulated_noise=False, views=()).level == "warn"
    gone = AllowedView(schema="gone", target="x")
    assert "gone: x" in with_policy(allow_simulated_noise=False, views=(gone,)).found


def test_prepared_data_is_vouched_for(prepared: Patient):
    """As prepared it is green; a changed, missing or unknown table is red."""
    assert one(doctor_site.data, prepared).level == "ok"
    table = prepared.home.data("tiny") / "table.parquet.sealed"
    original = table.read_bytes()
    table.write_bytes(original + b"\0")
    assert "not those that were sealed" in one(doctor_site.data, prepared).found
    table.unlink()
    assert one(doctor_site.data, prepared).level == "bad"
    table.write_bytes(original)
    shutil.copytree(prepared.home.data("tiny"), prepared.home.data("copy"))
    findings = doctor_site.data(prepared)
    assert levels(findings) == ["bad", "ok"]


def test_ledgers_are_verified_and_expected(prepared: Patient):
    """A changed ledger is red, and a data set without one too: it would have forgotten what was spent."""
    assert one(doctor_site.ledgers, prepared).level == "ok"
    path = prepared.home.ledgers / "tiny.jsonl"
    original = path.read_bytes()
    path.write_bytes(original.replace(b"tiny", b"tinz", 1))
    assert one(doctor_site.ledgers, prepared).level == "bad"
    path.unlink()
    assert "its ledger isn't" in one(doctor_site.ledgers, prepared).found


def test_a_broken_audit_log_is_red_and_hides_nothing_else(prepared: Patient):
    """The other checks still look."""
    prepared.home.audit_path.write_bytes(b"garbage\n")
    assert one(doctor_site.audit, prepared).level == "bad"
    findings = list(examine(prepared, doctor_site.CHECKS))
    assert {finding.name for finding in findings} >= {"certificate", "ledgers", "agent"}


def test_base_models_of_studies_are_looked_at(prepared: Patient):
    """An approved study whose base is here is green; a changed or missing base is red."""
    assert one(doctor_site.studies, prepared).level == "ok"
    (base,) = prepared.home.models.iterdir()
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert "not what its digest says" in one(doctor_site.studies, prepared).found
    shutil.rmtree(base)
    assert "is not here" in one(doctor_site.studies, prepared).found


def test_what_waits_and_a_pause_are_yellow(prepared: Patient):
    """The administrator is asked for something."""
    Approvals(prepared.home, ChainLog(prepared.home.audit_path)).pause(by="ann", now=prepared.now())
    found = one(doctor_site.studies, prepared)
    assert (found.level, found.cure) == ("warn", "fedmed site resume")


class Appliance:
    """A running appliance whose node can't reach the coordinator."""

    def __init__(self, home: SiteHome) -> None:
        self.home = home

    def status(self) -> SiteStatus:
        idle = FolderDesk(home=self.home, by="x").status()
        return replace(idle, agent_since="2030-01-01T00:00:00Z", node_state="unreachable")

    def stop(self) -> None: ...


def test_the_agent_is_asked(prepared: Patient):
    """None running is yellow; one whose node is cut off is red."""
    assert one(doctor_site.agent, prepared).level == "warn"
    with ControlServer(prepared.home, Appliance(prepared.home)):
        found = one(doctor_site.agent, prepared)
    assert (found.level, "unreachable" in found.found) == ("bad", True)


# --- all of it -------------------------------------------------------------------------------


def test_a_check_that_fails_is_a_finding(patient: Patient):
    """Neither a FedMed error, nor the system's, nor anything unforeseen ends the examination or shows its text."""

    def refuse(_: Patient) -> Sequence[Finding]:
        raise IntegrityError("the message of ours")

    def lose(_: Patient) -> Sequence[Finding]:
        raise OSError(5, "Input/output error")

    def burst(_: Patient) -> Sequence[Finding]:
        raise RuntimeError("Planted Person")

    found = list(examine(patient, [("a", refuse), ("b", lose), ("c", burst), ("d", lambda _: [ok("d", "fine")])]))
    assert levels(found) == ["bad", "bad", "bad", "ok"]
    assert found[0].found == "the message of ours"
    assert "Planted" not in str(found)


def test_looking_changes_nothing(prepared: Patient):
    """After an examination the folder is as it was, to the byte."""
    before = tree(prepared.home.root)
    list(examine(prepared, all_checks()))
    assert tree(prepared.home.root) == before


def test_a_finding_that_is_not_green_has_a_cure():
    """Nobody is left with a red line alone."""
    with pytest.raises(ValueError, match="must have a cure"):
        Finding(name="x", level="bad", found="broken")


def test_lines_and_exit_code(capsys: pytest.CaptureFixture[str]):
    """Plain where nobody sits at a terminal: a line each, a cure under what isn't green, 2 if anything is red."""
    assert doctor_cli.show([ok("disk", "plenty [red]"), warn("agent", "down", "start it")], as_json=False) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["ok", "disk", "plenty", "[red]"]
    assert shown[2].strip() == "cure: start it"
    assert doctor_cli.show([bad("TLS", "no", "call")], as_json=False) == 2
    assert "1 to cure" in capsys.readouterr().out


def test_the_doctor_speaks_json(patient: Patient, capsys: pytest.CaptureFixture[str]):
    """A monitoring system reads the same findings; exit code and `good` agree."""
    assert doctor_cli.show([bad("TLS", "no", "call"), ok("disk", "much")], as_json=True) == 2
    read = json.loads(capsys.readouterr().out)
    assert (read["version"], read["good"], len(read["findings"])) == (1, False, 2)
    assert doctor_cli.show([ok("disk", "much")], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["good"] is True
