"""The validator set and its quorum arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import decode, encode
from ledger.crypto import KeyPair
from ledger.errors import CodecError
from ledger.validators import VALIDATORS_MAX, ValidatorSet, faulty_max, quorum

KEYS = tuple(sorted(KeyPair.from_seed(bytes([number]) * 32).public for number in range(7)))


@pytest.mark.parametrize("n", range(1, VALIDATORS_MAX + 1))
def test_quorums_are_safe_and_live_for_every_number_of_members(n: int) -> None:
    """Trap 1. Two quorums share more than f members; the honest alone are a quorum; no smaller number would be safe."""
    f, q = faulty_max(n), quorum(n)
    assert f == (n - 1) // 3
    assert 3 * f < n <= 3 * f + 3
    assert 2 * q - n >= f + 1, "safe"
    assert n - f >= q, "live"
    assert 2 * (q - 1) - n < f + 1, "no larger than it must be"
    assert q == -((n + f + 1) // -2), "the formula of the protocol"
    assert q > f, "a quorum has an honest member"


def test_quorums_of_small_sets_are_the_known_ones() -> None:
    """Trap 1. At 5 and 6 members 2f + 1 would be 3: two such quorums may share nobody honest."""
    assert [quorum(n) for n in (1, 4, 5, 6, 7, 8, 9, 10, 13)] == [1, 3, 4, 4, 5, 6, 6, 7, 9]


@given(st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1), st.sets(st.sampled_from(KEYS), min_size=1))
def test_a_set_survives_its_encoding(epoch: int, first_height: int, keys: set[bytes]) -> None:
    known = ValidatorSet.create(epoch, first_height, keys)
    again = ValidatorSet.from_value(decode(encode(known.to_value()), size_bytes_max=1 << 16))
    assert again == known
    assert again.hash == known.hash
    assert list(again.keys) == sorted(keys)


def test_members_are_found_by_key_and_lead_in_turn() -> None:
    known = ValidatorSet.create(0, 1, reversed(KEYS))
    assert [known.index(key) for key in KEYS] == list(range(7))
    assert known.index(b"\x01" * 33) is None
    assert [known.leader(view) for view in (0, 1, 6, 7, 2**63 - 1)] == [0, 1, 6, 0, (2**63 - 1) % 7]
    assert (known.n, known.f, known.quorum) == (7, 2, 5)


def test_everything_about_a_set_enters_its_hash() -> None:
    sets = [ValidatorSet(0, 1, KEYS), ValidatorSet(1, 1, KEYS), ValidatorSet(0, 2, KEYS), ValidatorSet(0, 1, KEYS[1:])]
    assert len({known.hash for known in sets}) == 4


@pytest.mark.parametrize(
    "value",
    [
        None,
        (),
        (0, 1),
        (0, 1, KEYS, 0),
        (-1, 1, KEYS),
        (0, 0, KEYS),
        (True, 1, KEYS),
        (0, True, KEYS),
        (2**63, 1, KEYS),
        (0, 2**63, KEYS),
        ("0", 1, KEYS),
        (0, 1, ()),
        (0, 1, KEYS[0]),
        (0, 1, (KEYS[0], KEYS[0])),
        (0, 1, KEYS[::-1]),
        (0, 1, (*KEYS, None)),
        (0, 1, (KEYS[0][:-1], KEYS[1])),
        (0, 1, ("a" * 33,)),
        (0, 1, tuple(number.to_bytes(33, "big") for number in range(VALIDATORS_MAX + 1))),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_set_of_distinct_sorted_keys_is_refused(value: Any) -> None:
    """Trap 2, 11, 35."""
    with pytest.raises(CodecError):
        ValidatorSet.from_value(value)
