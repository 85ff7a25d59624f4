"""Byzantine strategies around batches and blocks, and floods and noise of every kind.

Must not know: the engine's votes and views (byzantine.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from consensus.messages import CheckpointVote, Status, Suspect, ViewChange, Vote
from consensus.sync import BLOCKS_PER_REQUEST
from ledger.block import (
    BLOCK_BATCHES_MAX,
    Certificate,
    CertifiedBlock,
    Phase,
    Proposal,
    decode_certified,
    encode_certified,
)
from ledger.codec import decode, encode
from ledger.modules import payments
from ledger.transaction import HEIGHT_MAX, Batch, Transaction
from p2p.frames import HANDSHAKE_KINDS, KIB, KINDS, Kind
from tests.simulation.byzantine_node import ByzantineNode
from tests.simulation.cluster import CURRENCY, Cluster

UNSIGNED = b"\x01" + bytes(64)  # the form of a signature

# Batches


class BatchWithholder(ByzantineNode):
    """Makes batches and shows each to one member only; whoever asks for one gets nothing."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.made = 0

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        if kind is Kind.BATCH_RESPONSE or (kind is Kind.BATCH and key != self.second_half[0]):
            return ()
        return (payload,)

    def act(self) -> None:
        self.made += 1
        if self.made % 3 == 0:
            self.replica.submit(worthless(self, self.made))


class BatchFlood(ByzantineNode):
    """Spreads tiny valid batches of transactions that can no longer be executed, as fast as it can sign."""

    PER_ACT = 5

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.made = 0

    def act(self) -> None:
        for _ in range(self.PER_ACT):
            self.made += 1
            self.frame_all(Kind.BATCH, Batch((worthless(self, self.made).wire,)).wire)


class BatchForger(ByzantineNode):
    """Spreads batches of payments in the names of others, signed by nobody."""

    def act(self) -> None:
        victim = self.dice.choice(self.others)
        body = worthless(self, self.dice.randrange(1 << 40)).wire[len(UNSIGNED) :]
        self.frame_all(Kind.BATCH, Batch((UNSIGNED + victim + body[len(victim) :],)).wire)


def worthless(node: ByzantineNode, number: int) -> Transaction:
    """A transaction of the node's own, well-formed and valid for a while, that pays a fraction to another."""
    tip = node.replica.store.tip.height
    transfer = payments.Transfer(CURRENCY, f"h{(node.index + 1) % node.cluster.options.n}", 1, "")
    return Transaction.create(
        node.key,
        node.cluster.genesis.chain_id,
        "payments.transfer",
        transfer.to_fields(),
        nonce=b"%16d" % number,
        valid_until=tip + 20,
    )


# Floods and noise


class VoteFlood(ByzantineNode):
    """Signs for views and heights of the far and near future, each message another."""

    PER_ACT = 8

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.number = 0

    def act(self) -> None:
        epoch, view, top = self.engine.validators.epoch, self.engine.view, self.engine.delivered
        for _ in range(self.PER_ACT):
            self.number += 1
            number, digest = self.number, self.random_hash()
            phase = Phase(1 + number % 2)
            self.tell_all(
                (
                    self.vote(view + 1 + number, top + 1 + number % 50, phase, digest),
                    self.vote(view, top + 100 + number, phase, digest),
                    self.vote(view + 1, top + 1 + number, phase, digest),
                    self.signed(ViewChange(epoch, view + 2 + number, None, (), self.member)),
                    self.signed(Suspect(epoch, view + number, self.member)),
                    self.signed(CheckpointVote(epoch, top + number, digest, digest, digest, self.member)),
                )
            )


class RequestFlood(ByzantineNode):
    """Asks for everything again and again, and says that it lacks all."""

    PER_ACT = 3

    def act(self) -> None:
        engine = self.engine
        lacking = encode(Status(engine.validators.epoch, 0, False, 0, 0).to_value())
        blocks = encode((1, BLOCKS_PER_REQUEST))
        ordered = [block for height in range(1, 5) if (block := self.replica.store.block(height)) is not None]
        batches = encode(
            tuple(dict.fromkeys(d for block in ordered for d in block.proposal.batches))[:BLOCK_BATCHES_MAX]
        )
        for _ in range(self.PER_ACT):
            self.frame_all(Kind.STATUS, lacking)
            self.frame_all(Kind.BLOCK_REQUEST, blocks)
            self.frame_all(Kind.BATCH_REQUEST, batches)


class Garbage(ByzantineNode):
    """Noise of every kind: random bytes, too long, cut short, and real frames with something changed."""

    def __init__(self, cluster: Cluster, index: int) -> None:
        super().__init__(cluster, index)
        self.samples: dict[Kind, bytes] = {}

    def hear(self, key: bytes, kind: Kind, payload: bytes) -> None:
        if self.dice.randrange(4) == 0 or kind not in self.samples:
            self.samples[kind] = payload
        super().hear(key, kind, payload)

    def act(self) -> None:
        for kind in KINDS:
            self.frame_all(kind, self.dice.randbytes(self.dice.randrange(64)))
            if KINDS[kind].size_bytes_max <= 64 * KIB and self.dice.randrange(8) == 0:
                self.frame_all(kind, self.dice.randbytes(KINDS[kind].size_bytes_max + 1))
            if kind not in HANDSHAKE_KINDS and self.samples.get(kind):
                for _ in range(3):
                    self.frame_all(kind, self._mutated(self.samples[kind]))

    def _mutated(self, payload: bytes) -> bytes:
        at = self.dice.randrange(len(payload))
        match self.dice.randrange(5):
            case 0:
                return payload[:at]
            case 1:
                return payload + payload[at:]
            case 2:
                return payload[:at] + payload[at + 1 :]
            case 3:
                return payload[:at] + self.dice.randbytes(4) + payload[at + 4 :]
            case _:
                return payload[:at] + bytes([payload[at] ^ 1 << self.dice.randrange(8)]) + payload[at + 1 :]


# Catching up


class LyingStatus(ByzantineNode):
    """Says it is far ahead, then far behind, and in views that nobody has entered; answers no request."""

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        if kind is not Kind.STATUS:
            return () if kind is Kind.BLOCK_RESPONSE else (payload,)
        status = Status.from_value(decode(payload, size_bytes_max=KIB))
        step = self.now_ms() // 700 % 4
        height = (HEIGHT_MAX, status.height + 10_000, status.height + 3, max(0, status.height - 5))[step]
        view = (HEIGHT_MAX, status.view + 5, 0, status.view)[step]
        return (encode(Status(status.epoch, view, step == 1, height, height).to_value()),)


class LyingBlocks(ByzantineNode):
    """Serves blocks that are not: other transactions, more of them, another block's certificate, too few signatures.
    Says at times that it has more blocks than others, and makes them up.
    """

    def pass_on(self, key: bytes, kind: Kind, payload: bytes) -> Iterable[bytes]:
        if kind is Kind.STATUS:
            status = Status.from_value(decode(payload, size_bytes_max=KINDS[kind].size_bytes_max))
            more = self.now_ms() // 1_000 % 4 == 3  # who is found out is asked no more, so the other lies come first
            return (encode(replace(status, height=status.height + more).to_value()),)
        if kind is not Kind.BLOCK_RESPONSE:
            return (payload,)
        wires = decode(payload, size_bytes_max=KINDS[kind].size_bytes_max)
        assert isinstance(wires, tuple)
        blocks = [decode_certified(wire) for wire in wires if isinstance(wire, bytes)]
        made = [self._false(block, blocks[0]) for block in blocks]
        if not blocks:
            made.append(self._made_up(self.replica.store.tip.height + 1))
        return (encode(tuple(map(encode_certified, made))),)

    def _made_up(self, height: int) -> CertifiedBlock:
        validators, view = self.engine.validators, self.engine.view
        proposal = Proposal(height, self.wall_ms(), ())
        own = self.vote(view, height, Phase.COMMIT, proposal.digest)
        assert isinstance(own, Vote)
        signatures = tuple((member, own.signature) for member in range(validators.quorum))
        certificate = Certificate(validators.epoch, view, height, Phase.COMMIT, proposal.digest, signatures)
        return CertifiedBlock(proposal, certificate, ())

    def _false(self, block: CertifiedBlock, other: CertifiedBlock) -> CertifiedBlock:
        certificate, proposal, batches = block.certificate, block.proposal, block.batches
        match self.dice.randrange(6):
            case 0 if batches:
                return replace(block, batches=(Batch((worthless(self, 1).wire,)), *batches[1:]))
            case 1:
                extra = Batch((worthless(self, 2).wire,))
                longer = replace(proposal, batches=(*proposal.batches, extra.digest))
                return CertifiedBlock(longer, certificate, (*batches, extra))
            case 2 if other is not block:
                return replace(block, certificate=other.certificate)
            case 3:
                return replace(block, certificate=replace(certificate, signatures=certificate.signatures[:-1]))
            case 4:
                return replace(block, certificate=replace(certificate, phase=Phase.PREPARE))
            case _:
                return replace(block, proposal=replace(proposal, time_ms=proposal.time_ms + 1))
