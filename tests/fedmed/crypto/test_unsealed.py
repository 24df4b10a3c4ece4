"""Private keys in use: in memory, for one process, and gone afterwards."""

import os
import signal
import ssl
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from fedmed.crypto import pki
from fedmed.crypto.unsealed import client_context, key_openssh, key_pem, load_chain, server_context, unsealed_file
from fedmed.errors import UsageError

P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())


def modes(path: Path) -> tuple[int, int]:
    """Return the modes of a file and of its folder."""
    return stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)


def test_a_file_in_memory_is_private_and_goes(tmp_path: Path):
    """Inside the block only its owner can read it; after the block neither file nor folder is left."""
    with unsealed_file(b"secret", name="server.key", folder=tmp_path) as path:
        assert path.read_bytes() == b"secret"
        assert path.name == "server.key"
        assert modes(path) == (0o600, 0o700)
    assert list(tmp_path.iterdir()) == []


def test_it_goes_when_the_block_fails(tmp_path: Path):
    """An error in the block removes the file too."""
    with pytest.raises(RuntimeError), unsealed_file(b"secret", name="k", folder=tmp_path):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_place_is_the_services_own_or_shared_memory(tmp_path: Path):
    """The folder of the service comes first; else it is /dev/shm; a place that is not there is one line."""
    with unsealed_file(b"x", name="k", environment={"RUNTIME_DIRECTORY": str(tmp_path)}) as path:
        assert path.parent.parent == tmp_path
    with unsealed_file(b"x", name="k", environment={}) as path:
        assert path.parent.parent == Path("/dev/shm")  # noqa: S108  what is tested
    with (
        pytest.raises(UsageError, match="set RuntimeDirectory="),
        unsealed_file(b"x", name="k", environment={"RUNTIME_DIRECTORY": str(tmp_path / "none")}),
    ):
        pass


def test_what_a_killed_process_left_is_removed_and_a_living_ones_stays(tmp_path: Path):
    """The lock of a folder tells: the kernel frees it with the process, whatever its number is."""
    program = (
        "import sys, pathlib\nfrom fedmed.crypto.unsealed import unsealed_file\n"
        "with unsealed_file(b'secret', name='k', folder=pathlib.Path(sys.argv[1])) as path:\n"
        "    print(path, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(  # noqa: S603  our own code
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        left = Path(child.stdout.readline().strip())
        with unsealed_file(b"other", name="k", folder=tmp_path):
            assert left.read_bytes() == b"secret"
        child.send_signal(signal.SIGKILL)
    assert left.exists()
    with unsealed_file(b"other", name="k", folder=tmp_path):
        assert not left.parent.exists()


def test_keys_are_written_as_their_readers_read_them():
    """PEM for TLS, OpenSSH's format for the SuperNode, and both are the same keys."""
    pem, openssh = load_pem_private_key(key_pem(P256), None), load_ssh_private_key(key_openssh(P384), None)
    assert isinstance(pem, ec.EllipticCurvePrivateKey)
    assert isinstance(openssh, ec.EllipticCurvePrivateKey)
    assert pem.private_numbers() == P256.private_numbers()
    assert openssh.private_numbers() == P384.private_numbers()


def test_a_context_gets_its_key_without_a_named_file(monkeypatch: pytest.MonkeyPatch):
    """The chain is loaded from an anonymous file in memory, whose descriptor is closed afterwards."""
    now = datetime.now(UTC)
    pem = pki.make_authority(P256, name="net", now=now)
    certificate = pki.Authority.open(pem, P256, now=now).issue_client(
        pki.make_request(P256, site="north"), site="north", now=now
    )
    loaded: list[str] = []

    class Watched(ssl.SSLContext):
        def load_cert_chain(self, certfile: object, *args: object) -> None:
            loaded.append(str(certfile))
            super().load_cert_chain(str(certfile), *args)  # type: ignore[arg-type]

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  descriptors
    load_chain(Watched(ssl.PROTOCOL_TLS_CLIENT), certificate=certificate, key=P256)
    assert loaded[0].startswith("/proc/self/fd/")
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  descriptors
    with pytest.raises(UsageError, match="expected a certificate and its own key"):
        load_chain(
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            certificate=certificate,
            key=ec.generate_private_key(ec.SECP256R1()),
        )


def test_contexts_are_strict():
    """TLS 1.3 only, both sides show certificates, no tickets, one authority."""
    now = datetime.now(UTC)
    pem = pki.make_authority(P256, name="net", now=now)
    certificate = pki.Authority.open(pem, P256, now=now).issue_server(P256.public_key(), hosts=["a.example"], now=now)
    for made in (server_context, client_context):
        context = made(ca=pem, certificate=certificate, key=P256)
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
        assert context.verify_mode == ssl.CERT_REQUIRED
        assert context.options & ssl.OP_NO_TICKET
        assert context.verify_flags & ssl.VERIFY_X509_STRICT
        assert [len(context.get_ca_certs())] == [1]
    assert client_context(ca=pem, certificate=certificate, key=P256).check_hostname
