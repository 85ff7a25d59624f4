"""Verification outside the engine: every signature inside every message is really checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from consensus import verify
from consensus.events import Verified
from consensus.messages import Status, Suspect, ViewChange, decode_message, encode_message
from consensus.newview import compose
from consensus.verify import Verifier
from ledger.block import Certificate, Phase
from ledger.codec import encode
from ledger.crypto import verify as check
from ledger.errors import CodecError
from ledger.genesis import LOG_WINDOW_MAX
from ledger.validators import VALIDATORS_MAX
from tests.consensus.samples import (
    BASE,
    CHAIN,
    DIGEST,
    FOUR,
    OTHER_CHAIN,
    PAIRS,
    certify,
    checkpoint,
    every_message,
    new_view,
    pre_prepare,
    prepared,
    sign,
    timeout,
    view_change,
    vote,
)
from tests.consensus.test_messages import paths, replaced, value_of

MESSAGES = {name: message for name, message in every_message().items() if name not in ("status", "prepared")}
Make = Callable[[Any], Any]


def accepts(message: Any, validators: Any = FOUR, chain_id: bytes = CHAIN) -> bool:
    verified = Verifier(chain_id).message(message, validators)
    assert verified is None or verified == Verified(message)
    return verified is not None


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_with_good_signatures_is_verified_on_its_chain_and_epoch_only(name: str) -> None:
    """Trap 3, 41."""
    message = MESSAGES[name]
    assert accepts(message)
    assert accepts(decode_message(encode_message(message)))
    assert not accepts(message, chain_id=OTHER_CHAIN)
    assert not accepts(message, replace(FOUR, epoch=1))
    assert not accepts(message, replace(FOUR, keys=FOUR.keys[::-1]))


def test_a_status_is_signed_by_nobody_and_never_verified() -> None:
    assert not accepts(Status(2, 1, False, 1, 1))


@pytest.mark.parametrize("name", MESSAGES)
def test_every_signature_inside_a_message_is_checked(name: str) -> None:
    """Trap 7, 8, 43. Those of view changes within a new view, of locks within these, of checkpoints: one bit each."""
    message = MESSAGES[name]
    warm = Verifier(CHAIN)
    assert warm.message(message, FOUR)
    value = value_of(message)
    flipped = 0
    for path, part in paths(value):
        if type(part) is bytes and len(part) == 65:
            for position in (1, 40):
                broken = part[:position] + bytes([part[position] ^ 1]) + part[position + 1 :]
                damaged = decode_message(encode(replaced(value, path, broken)))
                assert not accepts(damaged), path
                assert warm.message(damaged, FOUR) is None, "nor does having seen the good one help"
                flipped += 1
    assert flipped == 2 * {"timeout": 3, "view-change": 7, "new-view": 1 + 3 + 3 + 6}.get(name, 1)


@pytest.mark.parametrize("name", MESSAGES)
def test_nothing_in_a_message_can_be_altered(name: str) -> None:
    """Trap 7, 8. Every integer and hash of it, and every list shortened."""
    message = MESSAGES[name]
    value = value_of(message)
    for path, part in paths(value):
        others: list[Any] = []
        if type(part) is int and path != (0,):
            others = [part + 1, part - 1, 3 - part]
        elif type(part) is bytes and len(part) == 33:
            others = [DIGEST if part != DIGEST else CHAIN]
        elif type(part) is tuple and part and type(part[0]) is tuple and path != (1,):
            others = [part[1:], part[:-1], part[::-1], (*part, part[-1])]
        for other in others:
            if other == part:
                continue
            try:
                damaged = decode_message(encode(replaced(value, path, other)))
            except CodecError:
                continue
            assert not accepts(damaged), (path, other)


@pytest.mark.parametrize("member", [0, 2, 3])
def test_a_message_signed_by_another_member_is_refused(member: int) -> None:
    """Trap 2."""
    message = MESSAGES["prepare"]
    assert message.member == 1
    assert not accepts(sign(message, member))
    assert not accepts(replace(message, member=member))


def test_members_outside_the_set_are_refused() -> None:
    """Trap 2, 35. Index 4 has a key here, but is no member of four."""
    assert not accepts(vote(4))
    assert not accepts(replace(vote(0), member=127))
    assert not accepts(sign(Suspect(2, 5, 4)))


@pytest.mark.parametrize("name", ["suspect", "view-change", "checkpoint", "prepare"])
def test_a_signature_of_one_kind_is_refused_for_another(name: str) -> None:
    """Trap 41. Each message, with the signature of every other kind by the same member."""
    message = MESSAGES[name]
    others = [vote(message.member), vote(message.member, Phase.COMMIT), sign(Suspect(2, 6, message.member))]
    others += [view_change(message.member, 5), sign(replace(new_view(), member=message.member))]
    for other in others:
        if other.signature != message.signature:
            assert not accepts(replace(message, signature=other.signature))
    assert not accepts(replace(vote(1), phase=Phase.COMMIT))


def changes_of(members: tuple[int, ...], view: int = 6) -> tuple[ViewChange, ...]:
    return tuple(view_change(member, view) for member in members)


@pytest.mark.parametrize("members", [(0,), (0, 1), (0, 1, 1), (0, 0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 1, 4)])
def test_a_new_view_needs_a_quorum_of_distinct_members_in_order(members: tuple[int, ...]) -> None:
    """Trap 2, 7."""
    assert not accepts(new_view(6, changes_of(members)))


@pytest.mark.parametrize("members", [(0, 1, 2), (0, 2, 3), (0, 1, 2, 3)])
def test_any_quorum_of_view_changes_makes_a_new_view(members: tuple[int, ...]) -> None:
    assert accepts(new_view(6, changes_of(members)))


@pytest.mark.parametrize("member", [0, 1, 3])
def test_a_new_view_of_another_than_its_leader_is_refused(member: int) -> None:
    """Trap 7. View 6 of four members belongs to member 2."""
    assert not accepts(sign(compose(changes_of((0, 1, 2)), BASE, member)))


def test_a_new_view_of_view_zero_is_refused() -> None:
    assert not accepts(new_view(0, changes_of((0, 1, 2), view=0)))


def test_view_changes_for_another_view_or_epoch_make_no_new_view() -> None:
    """Trap 7. Signed view changes of earlier views cannot be used again, in memory or as they travel."""
    for other in (view_change(1, 5), view_change(1, 10), sign(replace(view_change(1), epoch=1))):
        message = new_view(6, (view_change(0), other, view_change(2)))
        assert not accepts(message)
        assert not accepts(decode_message(encode_message(message)))


def test_the_signatures_of_the_largest_view_change_are_all_remembered() -> None:
    """Each member's shows mostly the same; forgotten meanwhile, every one would be computed for every member."""
    assert verify.CACHE_ENTRIES_MAX > LOG_WINDOW_MAX * VALIDATORS_MAX


def test_locks_are_of_earlier_views_in_rising_heights_above_the_checkpoint() -> None:
    """Trap 7, 16."""
    stable = checkpoint(110)
    assert accepts(view_change(1, 6, stable, (prepared(111, 5), prepared(112, 0))))
    assert accepts(view_change(1, 6, None, (prepared(101, 5),)))
    refused = [
        (stable, (prepared(111, 6),)),
        (stable, (prepared(111, 7),)),
        (stable, (prepared(110, 5),)),
        (stable, (prepared(109, 5),)),
        (None, (prepared(100, 5),)),
        (stable, (prepared(111, 5), prepared(111, 5))),
        (stable, (prepared(111, 5), prepared(111, 4, "b"))),
        (stable, (prepared(112, 5), prepared(111, 5))),
        (stable, (prepared(111, 5, "a", (0, 1, 2, 3)),)),  # with more votes than it takes, a new view may not fit
    ]
    for checkpointed, locks in refused:
        assert not accepts(view_change(1, 6, checkpointed, locks))


def test_certificates_inside_a_view_change_need_a_quorum_of_this_epoch() -> None:
    """Trap 3, 7."""
    lock = prepared(111, 5)
    foreign = replace(lock, certificate=certify(replace(lock.certificate, epoch=1, signatures=())))
    for bad in (
        view_change(1, 6, checkpoint(110, (0, 1))),
        view_change(1, 6, certify(replace(checkpoint(110), epoch=1, signatures=()))),
        view_change(1, 6, None, (prepared(111, 5, "a", (1, 3)),)),
        view_change(1, 6, None, (foreign,)),
        view_change(1, 6, None, (prepared(111, 5, "a", (0, 1, 4)),)),
    ):
        assert not accepts(bad)
        assert not accepts(new_view(6, (view_change(0), bad, view_change(2))))


def test_a_leader_cannot_alter_a_view_change_it_was_given() -> None:
    """Trap 7, 8. Leaving out a lock breaks the signature of the member that showed it."""
    honest = view_change(1, 6, None, (prepared(101, 5), prepared(102, 5)))
    for altered in (replace(honest, prepared=honest.prepared[:1]), replace(honest, prepared=())):
        message = new_view(6, (view_change(0), honest, view_change(2)))
        assert accepts(message)
        assert not accepts(new_view(6, (view_change(0), altered, view_change(2))))
        for proofs in (message.prepared[:1], (), (prepared(101, 4), message.prepared[1])):
            assert not accepts(sign(replace(message, prepared=proofs)))


def test_timeouts_need_a_quorum_of_suspicions_of_that_view() -> None:
    """Trap 10."""
    known = timeout()
    for bad in (
        certify(replace(known, signatures=()), (0, 1)),
        certify(replace(known, signatures=()), (0, 1, 4)),
        replace(known, view=6),
        replace(known, signatures=known.signatures[::-1]),
        replace(known, signatures=(*known.signatures[:2], known.signatures[1])),
        replace(known, signatures=()),
    ):
        assert not accepts(bad)


def test_certificates_are_checked_against_the_set_of_their_epoch() -> None:
    """Trap 3, 27, 43."""
    verifier = Verifier(CHAIN)
    block = certify(Certificate(2, 0, 105, Phase.COMMIT, DIGEST, ()))
    for known in (block, checkpoint(110)):
        assert verifier.certificate(known, FOUR) == Verified(known)
        assert verifier.certificate(known, replace(FOUR, epoch=3)) is None
        assert verifier.certificate(replace(known, height=106), FOUR) is None
        assert verifier.certificate(replace(known, signatures=known.signatures[:2]), FOUR) is None
        doubled = (known.signatures[0], *known.signatures)
        assert verifier.certificate(replace(known, signatures=doubled), FOUR) is None
        assert Verifier(OTHER_CHAIN).certificate(known, FOUR) is None


def test_a_signature_seen_before_is_not_computed_again_and_stands_for_its_statement_only() -> None:
    """Trap 8, 38. View changes mostly show the same votes, and the new view shows them again."""
    calls = []

    def counting(key: bytes, statement: bytes, signature: bytes) -> bool:
        calls.append(signature)
        return check(key, statement, signature)

    verifier = Verifier(CHAIN, counting)
    lock, stable = prepared(111, 5), checkpoint(110)
    message = new_view(6, tuple(view_change(member, 6, stable, (lock,)) for member in range(3)))
    assert verifier.message(message, FOUR)
    assert len(calls) == verifier.checked == len(set(calls)) == 1 + 3 + 3 + 3
    assert verifier.message(message, FOUR)
    assert len(calls) == 10
    known = vote(1)
    assert verifier.message(known, FOUR)
    assert verifier.message(replace(known, height=106), FOUR) is None
    assert verifier.message(replace(known, member=2), FOUR) is None


def test_bad_signatures_are_not_remembered_and_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 33."""
    monkeypatch.setattr(verify, "CACHE_ENTRIES_MAX", 4)
    verifier = Verifier(CHAIN)
    for height in range(101, 121):
        assert verifier.message(vote(1, height=height), FOUR)
        assert verifier.message(replace(vote(1, height=height), signature=bytes(65)), FOUR) is None
        assert len(verifier._seen) <= 4


def test_the_check_is_a_parameter_and_is_given_key_statement_and_signature() -> None:
    seen = []
    verifier = Verifier(CHAIN, lambda *arguments: not seen.append(arguments))  # type: ignore[func-returns-value]
    message = replace(pre_prepare(), vote=replace(pre_prepare().vote, signature=b"token"))
    assert verifier.message(message, FOUR)
    assert seen == [(PAIRS[3].public, message.vote.statement(CHAIN), b"token")]
