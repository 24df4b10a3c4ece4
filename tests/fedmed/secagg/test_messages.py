"""Messages, their bytes and their hashes: one encoding, one meaning."""

import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.errors import ProtocolError
from fedmed.secagg import bindings, transcript, wire
from fedmed.secagg.messages import Abort, Advert, Box, Finish, Header, Offer, ShareRequest, Turn

TURN = Turn(run="run", round=1, attempt=0)


def wire_messages(bench: Any) -> list[object]:
    """Return one message of each kind, from a real round."""
    cohort = bench.Cohort(3)
    seen = {}

    def down(_: Any, message: Any) -> Any:
        seen.setdefault(type(message), message)
        return message

    cohort.play(up=down, down=down, pipeline=True)
    other = [Abort(turn=TURN), Finish(run="run")]
    for message in other:
        seen.setdefault(type(message), message)
    return list(seen.values())


def test_every_message_survives_the_wire(bench: Any):
    """decode(encode(m)) == m for each kind, and the bytes name format, version and kind."""
    messages = wire_messages(bench)
    assert {type(message) for message in messages} >= set(wire.KINDS) - {wire.KINDS[10]}
    for message in messages:
        data = wire.encode(message)
        assert wire.decode(data) == message
        assert data[:4] == b"FMSA"
        assert data[4] == 1


def test_truncated_and_padded_messages_are_refused(bench: Any):
    """No prefix of a message, and no message with a tail, is a message."""
    for message in wire_messages(bench):
        data = wire.encode(message)
        for broken in (data[:-1], data[: len(data) // 2], data + b"\0", data[:5]):
            with pytest.raises(ProtocolError, match="expected"):
                wire.decode(broken)


@settings(deadline=None)
@given(data=st.binary(max_size=200), kind=st.integers(0, 20))
def test_random_bytes_are_refused_with_a_protocol_error(data: Any, kind: Any):
    """Whatever comes, the reader raises its own error and nothing else."""
    for candidate in (data, b"FMSA\x01" + bytes([kind]) + data):
        try:
            wire.decode(candidate)
        except ProtocolError:
            continue
        assert wire.encode(wire.decode(candidate)) == candidate


def test_another_version_or_kind_is_refused():
    """A future version is named, not guessed at."""
    data = wire.encode(Finish(run="run"))
    with pytest.raises(ProtocolError, match="expected message version 1, got 2"):
        wire.decode(data[:4] + b"\x02" + data[5:])
    with pytest.raises(ProtocolError, match="expected a message kind below 13, got 99"):
        wire.decode(data[:5] + b"\x63" + data[6:])


def test_a_second_encoding_of_a_message_is_refused():
    """Unknown fields or another order of fields are not the message."""
    head = wire.encode(Abort(turn=TURN))[:6]
    turn = {"run": "run", "round": 1, "attempt": 0}
    assert wire.decode(head + msgspec.msgpack.encode({"turn": turn})) == Abort(turn=TURN)
    shuffled = {"attempt": 0, "round": 1, "run": "run"}
    for value in ({"turn": turn, "note": 1}, {"turn": shuffled}):
        with pytest.raises(ProtocolError, match="expected the one encoding of Abort"):
            wire.decode(head + msgspec.msgpack.encode(value))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Turn(run="", round=0, attempt=0),
        lambda: Turn(run="r\n", round=0, attempt=0),
        lambda: Turn(run="r", round=-1, attempt=0),
        lambda: Turn(run="r", round=0, attempt=2**63),
        lambda: Box(peer="a", data=bytes(81)),
        lambda: Advert(turn=TURN, site="a", enc_key=bytes(31), mask_key=bytes(32), early=False, signature=bytes(64)),
        lambda: Header(site="a", seed=bytes(32), commitments=(), signature=bytes(63)),
        lambda: Offer(turn=TURN, cohort=("b", "a"), threshold=1, roster=bytes(32), model=bytes(32), lengths=(1,)),
        lambda: Offer(turn=TURN, cohort=("a", "a"), threshold=1, roster=bytes(32), model=bytes(32), lengths=(1,)),
        lambda: Offer(turn=TURN, cohort=("a",), threshold=1, roster=bytes(32), model=b"", lengths=(1,)),
        lambda: Offer(turn=TURN, cohort=("a",), threshold=1, roster=bytes(32), model=bytes(32), lengths=(-1,)),
    ],
)
def test_a_malformed_record_does_not_exist(make: Any):
    """Sizes, ranges and the order of names are checked when a record is made."""
    with pytest.raises(ValueError, match=r"must|may"):
        make()


@settings(deadline=None)
@given(st.lists(st.lists(st.binary(max_size=6), max_size=4).map(tuple), min_size=2, max_size=2, unique=True))
def test_different_fields_have_different_hashes(pair: Any):
    """No two lists of fields share a digest or a packed form: lengths separate them."""
    left, right = pair
    assert transcript.digest("x", *left) != transcript.digest("x", *right)
    assert transcript.pack(*left) != transcript.pack(*right)


def test_a_digest_is_sha256_over_label_and_length_prefixed_fields():
    """The documented form, spelled out."""
    expected = hashlib.sha256(b"FedMed-SA/v1/ctx\0" + bytes(7) + b"\x02ab" + bytes(8)).digest()
    assert transcript.digest("ctx", b"ab", b"") == expected
    assert transcript.digest("other", b"ab", b"") != expected


def test_every_term_of_an_offer_enters_the_context(bench: Any):
    """Two sites that were told different terms have different contexts."""
    offer = bench.Cohort(4).offer()
    others = [
        replace(offer, turn=replace(offer.turn, run="other")),
        replace(offer, turn=replace(offer.turn, round=2)),
        replace(offer, turn=replace(offer.turn, attempt=1)),
        replace(offer, cohort=offer.cohort[:3]),
        replace(offer, threshold=4),
        replace(offer, roster=b"r" * 32),
        replace(offer, model=b"m" * 32),
        replace(offer, lengths=(7, 4, 5, 2)),
    ]
    assert len({item.context() for item in [offer, *others]}) == 9


def test_each_hash_of_the_chain_binds_what_came_before(bench: Any):
    """A change in ctx, an advert, a header or an upload changes every later hash."""
    cohort = bench.Cohort(3)
    state = cohort.play()
    adverts, headers, uploads = (tuple(part.values()) for part in (state.adverts, state.headers, state.uploads))
    h1 = bindings.hash_adverts(state.offer, adverts)
    h2 = bindings.hash_headers(h1, headers)
    assert (h1, h2, bindings.hash_uploads(h2, uploads)) == (state.h1, state.h2, state.h3)
    assert bindings.hash_adverts(replace(state.offer, threshold=3), adverts) != h1
    assert bindings.hash_adverts(state.offer, (replace(adverts[0], early=True), *adverts[1:])) != h1
    assert bindings.hash_headers(h1, (replace(headers[0], seed=bytes(32)), *headers[1:])) != h2
    assert bindings.hash_headers(h1, headers[:2]) != h2
    assert bindings.hash_uploads(h2, (replace(uploads[0], digest=bytes(32)), *uploads[1:])) != state.h3
    assert bindings.hash_uploads(h1, uploads) != state.h3


def test_adverts_out_of_order_or_twice_do_not_make_a_request(bench: Any):
    """A list of sites has one order, so a transcript has one form."""
    state = bench.Cohort(3).play()
    adverts = tuple(state.adverts.values())
    for wrong in (adverts[::-1], (adverts[0], *adverts)):
        with pytest.raises(ValueError, match="ascending order"):
            ShareRequest(offer=state.offer, adverts=wrong)
