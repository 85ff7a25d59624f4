"""The chain of validator sets: each epoch's closing checkpoint, certified, in every node's store.

Bundles of proofs begin at genesis and need one such certificate for each epoch. Votes and statuses bring the latest
(docs/protocol.md, section 6); a node that comes by many epochs at once, or was down just then, asks here for others.

Pure: what to send and what was learnt. Must not know: sockets, clocks, how checkpoints come to be certified.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.verify import Verifier
from ledger.block import CERTIFICATE_SIZE_BYTES_MAX, CheckpointCertificate
from ledger.codec import Value, decode, encode
from ledger.errors import CodecError
from storage.chain import ChainStore

EPOCHS_PER_ANSWER_MAX = 16
ANSWER_SIZE_BYTES_MAX = EPOCHS_PER_ANSWER_MAX * CERTIFICATE_SIZE_BYTES_MAX
PATIENCE_MS = 2_000  # the latest usually comes by itself; then one peer after the other is asked


class BadHistory(Exception):
    """What a peer sent is not what a quorum signed."""


class History:
    """Asks for missing closing certificates, and hands out those that are here."""

    def __init__(self, store: ChainStore, verifier: Verifier, key: bytes) -> None:
        """`key` is this node's: not all begin with the same peer."""
        self._store, self._verifier = store, verifier
        self._lacking: int | None = None
        self._since_ms = 0
        self._asked: tuple[bytes, int] | None = None  # peer and epoch
        self._turn = key[-1]

    def plan(self, peers: Sequence[bytes], now_ms: int) -> tuple[bytes, bytes] | None:
        """The peer to ask now, and the request; None if nothing lacks or the last one may still answer."""
        lacking = self._store.unclosed_epoch()
        if lacking != self._lacking:
            self._lacking, self._since_ms = lacking, now_ms
        if lacking is None or not peers or now_ms - self._since_ms < PATIENCE_MS:
            return None
        self._since_ms = now_ms
        self._turn += 1
        peer = peers[self._turn % len(peers)]
        self._asked = peer, lacking
        return peer, encode(lacking)

    def answer(self, payload: bytes) -> bytes:
        """The certificates that close the epoch asked for and those after it, as far as they are here."""
        first = decode(payload, size_bytes_max=16)
        if type(first) is not int or first < 0:
            raise CodecError("an epoch is a number")
        found: list[Value] = []
        for epoch in range(first, min(first + EPOCHS_PER_ANSWER_MAX, self._store.tip.validators.epoch)):
            certificate = self._store.closing_checkpoint(epoch)
            if certificate is None:
                break
            found.append(certificate.to_value())
        return encode(tuple(found))

    def take(self, peer: bytes, payload: bytes) -> list[CheckpointCertificate]:
        """What the peer that was asked sent: certificates this node lacked, each checked against its epoch's set.
        BadHistory if one is wrong, CodecError if it is not an answer."""
        if self._asked is None or self._asked[0] != peer:
            return []
        first, self._asked = self._asked[1], None
        values = decode(payload, size_bytes_max=ANSWER_SIZE_BYTES_MAX, items_max=1 << 16)
        if type(values) is not tuple or len(values) > EPOCHS_PER_ANSWER_MAX:
            raise CodecError("an answer is a list of certificates")
        learnt = []
        for epoch, value in enumerate(values, first):
            certificate = CheckpointCertificate.from_value(value)
            validators, following = self._store.validator_set(epoch), self._store.validator_set(epoch + 1)
            if validators is None or following is None:
                break  # further than this node is
            closes = certificate.height == following.first_height - 1
            if not closes or self._verifier.certificate(certificate, validators) is None:
                raise BadHistory(f"no quorum closed epoch {epoch} like this")
            learnt.append(certificate)
        return learnt
