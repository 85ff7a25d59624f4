"""Proof bundles: made by a store, checked by a file that knows nothing of it, and refused when a byte is another."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import codec, merkle
from ledger.block import Certificate, Phase, Proposal, receipts_root
from ledger.crypto import KeyPair, hash_bytes, verify
from ledger.errors import Code
from ledger.proofcheck import Proven, Refused, Trusted, check, decode, encode
from ledger.stateproof import Inclusion
from ledger.transaction import Batch
from storage.bundles import Bundler, Unprovable, _steps
from storage.memory import MemoryKeyValue
from tests.ledger.test_codec import VALUES
from tests.storage.test_chain import (
    GENESIS,
    KEYS,
    NEW_KEY,
    PARAMETERS,
    Cluster,
    Node,
    busy,
    change_validators,
    checkpoint_of,
    note_key,
)

AT_GENESIS = Trusted(GENESIS.chain_id, 0, GENESIS.validator_set.keys)


def certify(node: Node) -> None:
    """Certificates for all checkpoints so far."""
    for height in range(1, node.store.tip.height + 1):
        if node.store.state_root(height) is not None:
            node.store.put_checkpoint(checkpoint_of(node.store, height))


def certify_now(node: Node) -> None:
    """What was ordered so far is under a certified checkpoint."""
    node.run(seal=True)
    certify(node)


@pytest.fixture(scope="module")
def chain() -> Node:
    """Three epochs: in each one of the first four validators gives way to a fifth, or comes back."""
    node = Node(MemoryKeyValue(), Cluster())
    busy(node, 9)
    change_validators(node)
    busy(node, 9)
    certify(node)
    return node


def refused(bundle: bytes, trusted: Trusted = AT_GENESIS) -> bool:
    try:
        check(bundle, trusted, verify)
    except Refused:
        return True
    return False


def bundles(node: Node) -> dict[str, tuple[bytes, Proven]]:
    first = node.cluster.blocks[0].batches[0].transactions[0]
    last = node.store.events((0, 0), 10_000)[-9].transaction
    bundler = Bundler(node.store)
    made = {
        "head": bundler.head(),
        "present": bundler.state(note_key("n2-1")),
        "absent": bundler.state(note_key("nobody")),
        "transaction": bundler.transaction(first.id),
        "later transaction": bundler.transaction(last.id),
        "receipt": bundler.receipt(first.id),
        "later receipt": bundler.receipt(last.id),
    }
    return {name: (bundle, check(bundle, AT_GENESIS, verify)) for name, bundle in made.items()}


def test_a_bundle_tells_a_fact_and_where_it_stood(chain: Node) -> None:
    store, checkpoint = chain.store, chain.store.latest_checkpoint()
    assert checkpoint is not None
    found = {name: proven for name, (_, proven) in bundles(chain).items()}
    present, absent = found["present"], found["absent"]
    assert (present.kind, present.height, present.epoch) == ("state", checkpoint.height, 1)
    assert present.fact["value"] == store.prove_state(note_key("n2-1")).value_bytes
    assert present.fact["block_hash"] == checkpoint.block_hash
    assert absent.fact["value"] is None
    for name in ("transaction", "later transaction"):
        placed = store.transaction(found[name].fact["id"])
        assert placed is not None
        assert (found[name].height, found[name].fact["wire"]) == (placed[0], placed[2].wire)
    for name in ("receipt", "later receipt"):
        receipt = store.receipt(found[name].fact["id"])
        assert receipt is not None
        assert found[name].fact["code"] == receipt.code == Code.OK


def test_a_link_leads_to_the_next_validators_where_too_few_of_the_old_ones_sign(chain: Node) -> None:
    """Four validators of which one is replaced: three of the old ones still sign, a quorum, so that no link is needed;
    a reader who trusts others of them needs the link."""
    bundle, proven = bundles(chain)["present"]
    assert proven.trusted == AT_GENESIS
    _, _, links, claim, _ = decode(bundle)
    assert links == ()
    link = Bundler(chain.store)._farthest(GENESIS.validator_set, 1)[1]
    content = ("medchain/proof/1", GENESIS.chain_id, (link,), claim)
    with_link = encode((*content, hash_bytes(encode(content))))
    later = check(with_link, AT_GENESIS, verify).trusted
    assert (later.epoch, later.keys) == (1, chain.store.tip.validators.keys)
    assert not refused(bundle, later)
    assert refused(with_link, later), "a link of an epoch before the trusted one"


def test_a_transaction_of_a_later_epoch_comes_with_the_links_to_its_validators(chain: Node) -> None:
    """Also where a quorum of those trusted is among the signers, which is enough for a checkpoint."""
    bundle, proven = bundles(chain)["later transaction"]
    assert (proven.trusted.epoch, proven.trusted.keys) == (1, chain.store.tip.validators.keys)
    _, _, links, claim, _ = decode(bundle)
    assert len(links) == 1
    with pytest.raises(Refused, match="another epoch"):
        check(sealed((), claim), AT_GENESIS, verify)


def test_who_is_a_quorum_of_an_earlier_set_alone_decides_nothing() -> None:
    """A commit vote says only that its signer saw a quorum prepare: three of genesis' four may honestly have voted for
    what the ten of a later epoch then decided otherwise."""
    never_ordered = Cluster().note("never", 1)
    proposal = Proposal(500, 123_456, (Batch((never_ordered.wire,)).digest,), False)
    statement = Certificate(1, 0, 500, Phase.COMMIT, proposal.digest, ()).statement(GENESIS.chain_id)
    three = sorted(KEYS, key=lambda key: key.public)[:3]
    signed = (1, 0, tuple((key.public, key.sign(statement)) for key in three))
    with pytest.raises(Refused, match="another epoch"):
        check(sealed((), ("transaction", never_ordered.wire, b"", proposal.to_value(), signed)), AT_GENESIS, verify)


def receipt_at(node: Node, height: int, position: int) -> bytes:
    """What anyone can make of blocks that are public: a bundle of any receipt, also of a copy's."""
    store, bundler = node.store, Bundler(node.store)
    checkpoint = next(found for each in range(height, store.tip.height + 1) if (found := store.checkpoint(each)))
    receipts, previous = store.receipts(height), store.results_hash(height - 1)
    path = merkle.path([receipt.leaf() for receipt in receipts], position)
    following = tuple(receipts_root(store.receipts(each)) for each in range(height + 1, checkpoint.height + 1))
    way = (receipts[position].to_value(), _steps(Inclusion(position, len(receipts), path)), previous, following)
    return sealed((), ("receipt", *way, bundler._checkpoint(checkpoint)))


def test_a_receipt_that_refuses_one_copy_proves_nothing_of_the_transaction() -> None:
    """One that is ordered too early is refused, and one within its time and one after it, once it was executed."""
    node = Node(MemoryKeyValue(), Cluster())
    last = 1 + PARAMETERS.validity_heights_max
    tx = node.cluster.note("once", 1, valid_until=last + 1)
    codes = [node.run([tx, node.cluster.note("x", 1, valid_until=9)]).receipts[0].code for _ in range(3)]
    while node.store.tip.height <= last:
        node.run()
    codes.append(node.run([tx, node.cluster.note("y", 1, valid_until=last + 9)]).receipts[0].code)
    height = node.store.tip.height
    certify_now(node)
    assert codes == [Code.VALIDITY_TOO_LONG, Code.OK, Code.REPLAYED, Code.EXPIRED]
    proven = check(Bundler(node.store).receipt(tx.id), AT_GENESIS, verify)
    assert (proven.height, proven.fact["code"]) == (2, Code.OK)
    assert check(receipt_at(node, 2, 0), AT_GENESIS, verify) == proven
    for each in (1, 3, height):
        with pytest.raises(Refused, match="one copy was refused"):
            check(receipt_at(node, each, 0), AT_GENESIS, verify)


def test_no_bundle_is_made_of_a_receipt_that_refuses_one_copy() -> None:
    """That a transaction was never executed, no tree on the chain says."""
    node = Node(MemoryKeyValue(), Cluster())
    node.run()
    late = node.cluster.note("late", 1, valid_until=1)
    assert node.run([late]).receipts[0].code == Code.EXPIRED
    certify_now(node)
    with pytest.raises(Unprovable, match="one copy was refused"):
        Bundler(node.store).receipt(late.id)


def test_who_trusts_other_validators_or_another_chain_is_not_convinced(chain: Node) -> None:
    strangers = replace(AT_GENESIS, keys=tuple(sorted(key[:1] + bytes(32) for key in AT_GENESIS.keys)))
    for name, (bundle, _) in bundles(chain).items():
        assert refused(bundle, strangers), name
        assert refused(bundle, replace(AT_GENESIS, chain_id=b"\x01" + bytes(32))), name
        assert refused(bundle, replace(AT_GENESIS, keys=tuple(sorted((*AT_GENESIS.keys[:1], *strangers.keys))))), name


def test_what_is_not_certified_yet_or_unknown_cannot_be_proved() -> None:
    node = Node(MemoryKeyValue(), Cluster())
    busy(node, 4)
    tx = node.cluster.blocks[0].batches[0].transactions[0]
    bundler = Bundler(node.store)
    with pytest.raises(Unprovable, match="not certified yet"):
        bundler.state(note_key("n2-1"))
    with pytest.raises(Unprovable, match="no certified checkpoint"):
        bundler.receipt(tx.id)
    with pytest.raises(Unprovable, match="no block"):
        bundler.transaction(b"\x01" + bytes(32))
    with pytest.raises(Unprovable, match="has not begun"):
        Bundler(node.store, since=1)


def resealed(bundle: bytes, random: Random) -> bytes:
    """With a byte of its content changed and the digest made anew, as whoever means to deceive would do."""
    content = list(decode(bundle)[:-1])
    at = random.randrange(2, 4)
    content[at] = changed(content[at], random)
    return encode((*content, hash_bytes(encode(tuple(content)))))


def changed(value: Any, random: Random) -> Any:
    """One leaf of a value is another."""
    match value:
        case tuple() if value:
            at = random.randrange(len(value))
            return (*value[:at], changed(value[at], random), *value[at + 1 :])
        case bytes() if value:
            at = random.randrange(len(value))
            return value[:at] + bytes([value[at] ^ 1 << random.randrange(8)]) + value[at + 1 :]
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
    return b"x"


def mutated(bundle: bytes, random: Random) -> bytes:
    """Another byte, a byte less, a byte more, two stretches exchanged, or the end cut off."""
    at, other = sorted(random.sample(range(len(bundle)), 2))
    match random.randrange(5):
        case 0:
            return bundle[:at] + bytes([bundle[at] ^ 1 << random.randrange(8)]) + bundle[at + 1 :]
        case 1:
            return bundle[:at] + bundle[at + 1 :]
        case 2:
            return bundle[:at] + random.randbytes(1) + bundle[at:]
        case 3:
            size = min(random.choice([1, 32, 33, 64, 65]), other - at)
            return (
                bundle[:at]
                + bundle[other : other + size]
                + bundle[at + size : other]
                + bundle[at : at + size]
                + (bundle[other + size :])
            )
    return bundle[:at]


def test_ten_thousand_tampered_bundles_are_refused(chain: Node) -> None:
    """Any byte of it: each is hashed, signed or compared."""
    random, tried = Random(4), 0
    for bundle, _ in bundles(chain).values():
        for _ in range(1_500):
            other = mutated(bundle, random)
            if other != bundle:
                tried += 1
                assert refused(other)
    assert tried > 10_000


def test_a_changed_content_under_a_new_digest_is_refused_or_another_true_absence(chain: Node) -> None:
    random = Random(5)
    for name, (bundle, proven) in bundles(chain).items():
        for _ in range(300):
            try:
                other = check(resealed(bundle, random), AT_GENESIS, verify)
            except Refused:
                continue
            assert name == "absent"
            assert other.fact == proven.fact | {"key": other.fact["key"]}
            assert chain.store.state_bytes(other.fact["key"]) is None


def sealed(links: tuple[Any, ...], claim: tuple[Any, ...]) -> bytes:
    content = ("medchain/proof/1", GENESIS.chain_id, links, claim)
    return encode((*content, hash_bytes(encode(content))))


def signatures_by(count: int, content: tuple[Any, ...], keys: tuple[KeyPair, ...] = ()) -> tuple[Any, ...]:
    """As a certificate's: of `keys` and of strangers, `count` in all."""
    strangers = [KeyPair.from_seed(number.to_bytes(32, "big")) for number in range(1, count - len(keys) + 1)]
    statement = encode(("medchain/checkpoint/1", GENESIS.chain_id, *content))
    return tuple((key.public, key.sign(statement)) for key in sorted((*keys, *strangers), key=lambda key: key.public))


def verified(bundle: bytes) -> int:
    """How many signatures are verified until it is refused."""
    counted: list[bytes] = []

    def verify_counted(key: bytes, message: bytes, signature: bytes) -> bool:
        counted.append(key)
        return verify(key, message, signature)

    with pytest.raises(Refused):
        check(bundle, AT_GENESIS, verify_counted)
    return len(counted)


HASH = b"\x01" + bytes(32)
AT_FIVE = (1, 5, HASH, HASH, HASH)
HEADER = (5, HASH, HASH, HASH, 0, HASH)


@pytest.mark.parametrize("field", range(5))
def test_no_signature_is_verified_over_a_checkpoint_with_a_field_of_another_kind(field: int) -> None:
    """It would be hashed for each signature: with two megabytes, for minutes."""
    wrong = -1 if field < 2 else HASH + b"x" * 100
    content = (*AT_FIVE[:field], wrong, *AT_FIVE[field + 1 :])
    signed = signatures_by(4, content, tuple(KEYS[:4]))
    assert verified(sealed((), ("head", HEADER, (*content, signed)))) == 0
    assert verified(sealed((((*content, signed), b"", b"", b""),), ("head", HEADER, (*AT_FIVE, ())))) == 0


def test_who_trusts_none_of_the_signers_verifies_nothing() -> None:
    assert verified(sealed((), ("head", HEADER, (*AT_FIVE, signatures_by(100, AT_FIVE))))) == 0


def test_a_certificate_holds_128_signatures_at_most() -> None:
    enough = signatures_by(128, AT_FIVE, tuple(KEYS[:4]))
    assert verified(sealed((), ("head", HEADER, (*AT_FIVE, enough)))) == 128, "refused for its header only"
    too_many = signatures_by(129, AT_FIVE, tuple(KEYS[:4]))
    assert verified(sealed((), ("head", HEADER, (*AT_FIVE, too_many)))) == 0


def test_those_trusted_are_verified_before_strangers() -> None:
    """A stranger's signatures are his to make, as many as fit."""
    signed = signatures_by(128, AT_FIVE, tuple(KEYS[:4]))
    trusted = set(AT_GENESIS.keys)
    forged = tuple((key, bytes([1]) + bytes(64) if key in trusted else one) for key, one in signed)
    assert verified(sealed((), ("head", HEADER, (*AT_FIVE, forged)))) == 1


def test_every_byte_matters(chain: Node) -> None:
    for bundle, _ in bundles(chain).values():
        for at in range(0, len(bundle), 7):
            assert refused(bundle[:at] + bytes([bundle[at] ^ 0xFF]) + bundle[at + 1 :]), at


@given(VALUES)
def test_the_checkers_own_codec_is_the_chains(value: codec.Value) -> None:
    data = codec.encode(value)
    assert encode(value) == data
    assert decode(data) == value


@given(st.binary(max_size=40))
def test_the_checkers_own_codec_refuses_what_the_chains_does(data: bytes) -> None:
    try:
        expected = codec.decode(data, size_bytes_max=100)
    except codec.CodecError:
        with pytest.raises(Refused):
            decode(data)
    else:
        assert decode(data) == expected


def test_the_new_validator_is_one_of_those_that_sign() -> None:
    assert NEW_KEY.public not in AT_GENESIS.keys
    assert set(AT_GENESIS.keys) == {key.public for key in KEYS}
