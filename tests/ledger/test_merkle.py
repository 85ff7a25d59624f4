"""Merkle trees against the definition of RFC 6962, and proofs against every alteration."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.merkle import EMPTY_ROOT, PATH_LENGTH_MAX, leaf_hash, node_hash, path, root, root_from_path

SIZES = range(1, 41)
LEAVES = [leaf_hash(b"leaf %d" % number) for number in range(41)]


def split(n: int) -> int:
    """The largest power of two below `n`."""
    return 1 << (n - 1).bit_length() - 1


def root_by_definition(data: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, over the leaves' contents; our hashes carry an algorithm id in front."""
    if not data:
        return b"\x01" + sha256(b"").digest()
    if len(data) == 1:
        return b"\x01" + sha256(b"\x00" + data[0]).digest()
    k = split(len(data))
    return b"\x01" + sha256(b"\x01" + root_by_definition(data[:k]) + root_by_definition(data[k:])).digest()


def path_by_definition(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if index < k:
        return [*path_by_definition(index, leaves[:k]), root(leaves[k:])]
    return [*path_by_definition(index - k, leaves[k:]), root(leaves[:k])]


@pytest.mark.parametrize("size", [0, *SIZES, 64, 65, 127, 255, 257])
def test_the_root_is_that_of_rfc_6962(size: int) -> None:
    data = [b"leaf %d" % number for number in range(size)]
    assert root([leaf_hash(item) for item in data]) == root_by_definition(data)


def test_an_empty_tree_has_the_root_of_rfc_6962() -> None:
    assert root([]) == EMPTY_ROOT
    assert EMPTY_ROOT.hex() == "01e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_has_the_path_of_rfc_6962_and_it_leads_to_the_root(size: int) -> None:
    leaves = LEAVES[:size]
    for index, leaf in enumerate(leaves):
        siblings = path(leaves, index)
        assert list(siblings) == path_by_definition(index, leaves)
        assert root_from_path(leaf, index, size, siblings) == root(leaves)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 11, 16, 21, 40])
def test_every_alteration_of_a_proof_leads_elsewhere(size: int) -> None:
    leaves = LEAVES[:size]
    expected = root(leaves)
    for index, leaf in enumerate(leaves):
        siblings = path(leaves, index)
        assert root_from_path(LEAVES[40], index, size, siblings) != expected, "another leaf"
        for other in range(-1, size + 2):
            if other != index:
                assert root_from_path(leaf, other, size, siblings) != expected, "another index"
        for position in range(len(siblings)):
            removed = siblings[:position] + siblings[position + 1 :]
            changed = (*siblings[:position], LEAVES[40], *siblings[position + 1 :])
            shortened = (*siblings[:position], siblings[position][:-1], *siblings[position + 1 :])
            doubled = (*siblings[:position], siblings[position], *siblings[position:])
            for altered in (removed, changed, shortened, doubled):
                assert root_from_path(leaf, index, size, altered) != expected
            if position and siblings[position] != siblings[position - 1]:
                swapped = list(siblings)
                swapped[position - 1 : position + 1] = swapped[position], swapped[position - 1]
                assert root_from_path(leaf, index, size, swapped) != expected
        assert root_from_path(leaf, index, size, (*siblings, LEAVES[40])) is None, "one sibling too many"


def test_paths_of_the_wrong_shape_lead_nowhere() -> None:
    """Trap 35. Counts and indexes come from strangers; a walk is bounded whatever they say."""
    leaf, huge = LEAVES[0], 2**63 - 1
    assert root_from_path(leaf, 0, 0, ()) is None
    assert root_from_path(leaf, -1, 4, ()) is None
    assert root_from_path(leaf, 4, 4, LEAVES[:2]) is None
    assert root_from_path(leaf, 0, huge, ()) is None
    assert root_from_path(leaf, 0, huge, LEAVES[:PATH_LENGTH_MAX]) is None
    assert root_from_path(leaf, 0, huge, [leaf] * (PATH_LENGTH_MAX + 1)) is None
    assert root_from_path(leaf, 0, 2, (b"\x01" * 64,)) is None


def test_a_leaf_is_never_a_node() -> None:
    """The prefixes keep an inner node from passing for a leaf's content (RFC 6962, section 2.1)."""
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)
    assert root([leaf_hash(left + right)]) != root([left, right])


@pytest.mark.parametrize("index", [-1, 3, 100])
def test_asking_for_the_path_of_a_leaf_that_is_not_there_is_our_mistake(index: int) -> None:
    with pytest.raises(IndexError):
        path(LEAVES[:3], index)


@given(st.lists(st.binary(max_size=3), min_size=2, max_size=12), st.data())
def test_order_and_content_of_the_leaves_decide_the_root(data: list[bytes], draw: st.DataObject) -> None:
    leaves = [leaf_hash(item) for item in data]
    other = draw.draw(st.permutations(leaves))
    assert (root(other) == root(leaves)) == (other == leaves)
    assert root(leaves[:-1]) != root(leaves)
    assert root([*leaves, leaves[-1]]) != root(leaves), "an odd leaf is carried up, not doubled (CVE-2012-2459)"
