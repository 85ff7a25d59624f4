"""A store put together from pieces of a snapshot (storage/snapshots.py), none of them trusted.

Everything leads back to genesis: its validators certify the end of their epoch, whose state names the next ones, and so
on to the set that certified the checkpoint; its certificate names state root, block and results, and each piece is
checked against what stands above it. A piece that does not fit is BadPiece, which whoever sent it has to answer for.

What fits is written at once, so a joiner that is cut off goes on where it stopped. When the target moves on to a later
checkpoint, only buckets that differ are fetched again. Until `finish` it is no store: its format's name comes last.

Must not know: peers, or in which order pieces come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from ledger.block import (
    CertifiedBlock,
    CheckpointCertificate,
    Header,
    Phase,
    Proposal,
    Receipt,
    decode_certified,
    next_results_hash,
    receipts_root,
)
from ledger.codec import Value, encode
from ledger.errors import CodecError
from ledger.execution import Tip
from ledger.genesis import Genesis
from ledger.stateproof import (
    BUCKETS,
    DIGEST_SIZE_BYTES,
    EMPTY_BUCKET,
    FANOUT,
    StateProof,
    bucket_hash,
    bucket_of,
    hash_key,
    parent_hash,
    root_hash,
)
from ledger.validators import ValidatorSet
from storage import schema
from storage.chain import PLAIN, VALIDATORS_KEY, exceptions_at, exceptions_of, read_batch
from storage.errors import Corruption
from storage.kv import KeyValue
from storage.leaves import Digests, LeafLog, present
from storage.migrations import join_leaves
from storage.snapshots import PART_BUCKETS, PARTS
from storage.statetree import StateStore, decode_record

ROWS_AT_ONCE: Final = 10_000
_LEVELS_IN_PART: Final = 3
# What belongs to one target's blocks; the state and the history of validators serve the next target, too.
_OF_BLOCKS: Final = (
    schema.PROPOSAL, schema.BATCH, schema.ORDERED, schema.HEADER, schema.RESULTS, schema.EXCEPTIONS, schema.TRANSACTION,
    schema.ROOT,
)  # fmt: skip


class BadPiece(Exception):
    """A piece is not what it must be: its sender lies, or its disk does."""


@dataclass(frozen=True, slots=True)
class Target:
    """A certified checkpoint, and what it says of the block and the state there."""

    certificate: CheckpointCertificate
    header: Header
    top: bytes


class Assembly:
    """A store being put together in `kv`, which is empty or what an earlier assembly of this chain left."""

    def __init__(self, kv: KeyValue, genesis: Genesis) -> None:
        self._kv, self._genesis, self._chain_id = kv, genesis, genesis.chain_id
        self._sets: list[ValidatorSet] = [genesis.validator_set]
        while (data := kv.get(schema.at_height(schema.VALIDATORS, len(self._sets)))) is not None:
            self._sets.append(ValidatorSet.from_value(decode_record(data, schema.VALIDATORS)))
        self._have = bytearray(EMPTY_BUCKET * BUCKETS)  # digests of what is here
        join_leaves(kv)  # where older software began it
        self._leaf_log = LeafLog()
        for bucket, digest in self._leaf_log.read(kv).items():
            self._put_digest(self._have, bucket, digest)
        self._leaves: dict[int, bytes] = {}
        self._missing: set[int] = set()
        self._above: tuple[bytes, bytes] | None = None  # hash and results hash that the next block down must have
        self._next = self._base = 0
        self.target: Target | None = None

    # Validators

    @property
    def epoch(self) -> int:
        """The last epoch whose validators are known: what closes it is asked for next."""
        return len(self._sets) - 1

    def take_epochs(self, first: int, values: Value) -> int:
        """Use what closes `first` and the epochs after it; how many were new."""
        if type(values) is not tuple:
            raise BadPiece("not a list of epochs")
        before = len(self._sets)
        for epoch, value in enumerate(values, first):
            if epoch == self.epoch:
                self._take_epoch(epoch, value)
        return len(self._sets) - before

    def _take_epoch(self, epoch: int, value: Value) -> None:
        try:
            match value:
                case (certificate_value, bytes(encoded), entries, siblings):
                    certificate = CheckpointCertificate.from_value(certificate_value)
                    proof = StateProof.from_value((entries, siblings))
                    following = ValidatorSet.from_value(decode_record(encoded, schema.LINK))
                case _:
                    raise BadPiece("not what closes an epoch")
        except (CodecError, Corruption):
            raise BadPiece("not what closes an epoch") from None
        if certificate.epoch != epoch or not certificate.valid(self._chain_id, self._sets[epoch]):
            raise BadPiece(f"no quorum closed epoch {epoch} like this")
        if not proof.verify(certificate.state_root, VALIDATORS_KEY, encoded):
            raise BadPiece(f"the state at the end of epoch {epoch} does not name these validators")
        if following.epoch != epoch + 1 or following.first_height != certificate.height + 1:
            raise BadPiece(f"epoch {epoch} does not end there")
        puts = [
            (schema.at_height(schema.VALIDATORS, epoch + 1), encoded),
            (schema.at_height(schema.LINK, epoch), encode((encoded, entries, siblings))),
            (schema.at_height(schema.CHECKPOINT, certificate.height), encode(certificate.to_value())),
        ]
        self._kv.write(puts)
        self._sets.append(following)

    # The target

    def aim(self, value: Value) -> Target | None:
        """Aim at an offered checkpoint (`storage.snapshots.offer`); None, and nothing changes, where its epoch's
        validators are not known yet."""
        match value:
            case (certificate_value, header_value, bytes(top)) if len(top) == FANOUT * DIGEST_SIZE_BYTES:
                pass
            case _:
                raise BadPiece("not an offer")
        try:
            certificate = CheckpointCertificate.from_value(certificate_value)
            header = Header.from_value(header_value)
        except CodecError:
            raise BadPiece("not an offer") from None
        if certificate.epoch > self.epoch:
            return None
        if not certificate.height or not certificate.valid(self._chain_id, self._sets[certificate.epoch]):
            raise BadPiece(f"no quorum certified height {certificate.height} like this")
        if (header.height, header.hash(self._chain_id)) != (certificate.height, certificate.block_hash):
            raise BadPiece(f"not the header that was certified at height {certificate.height}")
        if root_hash(parent_hash(top)) != certificate.state_root:
            raise BadPiece("not what stands under the certified root")
        self.target = Target(certificate, header, top)
        self._leaves.clear()
        self._missing.clear()
        self._above = certificate.block_hash, certificate.results_hash
        self._next = certificate.height
        self._base = max(0, certificate.height - self._genesis.parameters.validity_heights_max)
        self._forget_blocks()
        return self.target

    def _forget_blocks(self) -> None:
        for prefix in _OF_BLOCKS:
            while keys := [key for key, _ in self._kv.scan_prefix(prefix, limit=ROWS_AT_ONCE)]:
                self._kv.write((), keys)

    # The state

    def missing_parts(self) -> list[int]:
        return [part for part in range(PARTS) if part not in self._leaves]

    def take_leaves(self, part: int, data: Value) -> None:
        assert self.target is not None
        if type(data) is not bytes or len(data) != PART_BUCKETS * DIGEST_SIZE_BYTES:
            raise BadPiece("not the digests of a part")
        if digest_of_part(data) != self._digest_at(self.target.top, part):
            raise BadPiece(f"not the digests of part {part} under the certified root")
        self._leaves[part] = data
        first = part * PART_BUCKETS
        self._missing.update(
            bucket
            for bucket in range(first, first + PART_BUCKETS)
            if self._digest_at(self._have, bucket) != self._digest_at(data, bucket - first)
        )

    def missing_buckets(self) -> list[int]:
        """Those whose digest is known and whose content is not here."""
        return sorted(self._missing)

    @property
    def buckets_left(self) -> int:
        """How many those are."""
        return len(self._missing)

    def take_buckets(self, first: int, values: Value) -> int:
        """Use the buckets from `first` on, as far as their digests are known; how many. What is here already stays."""
        if type(values) is not tuple or not values or first + len(values) > BUCKETS:
            raise BadPiece("not a list of buckets")
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        changed: dict[int, bytes] = {}
        count = 0
        for bucket, value in enumerate(values, first):
            leaves = self._leaves.get(bucket // PART_BUCKETS)
            if leaves is None:
                break
            digest = self._digest_at(leaves, bucket % PART_BUCKETS)
            rows = entries_of(bucket, value, digest)
            count += 1
            if digest == self._digest_at(self._have, bucket):
                continue
            deletes += [key for key, _ in self._kv.scan_prefix(schema.bucket_prefix(bucket))]
            puts += [(schema.state_entry(key, key_hash), data) for key, key_hash, data in rows]
            changed[bucket] = digest
        if changed:
            self._write_buckets(changed, puts, deletes)
        return count

    def _write_buckets(self, changed: dict[int, bytes], puts: list[tuple[bytes, bytes]], deletes: list[bytes]) -> None:
        def every() -> Digests:
            have = bytearray(self._have)
            for bucket, digest in changed.items():
                self._put_digest(have, bucket, digest)
            return present(bytes(have))

        row = self._leaf_log.add(self._leaf_log.next_number, changed, every)
        self._kv.write([*puts, (row.key, row.data)], [*deletes, *row.replaced])
        self._leaf_log.adopt(row)
        for bucket, digest in changed.items():
            self._put_digest(self._have, bucket, digest)
            self._missing.discard(bucket)

    @staticmethod
    def _digest_at(digests: bytes | bytearray, index: int) -> bytes:
        return bytes(digests[index * DIGEST_SIZE_BYTES : (index + 1) * DIGEST_SIZE_BYTES])

    @staticmethod
    def _put_digest(digests: bytearray, index: int, digest: bytes) -> None:
        digests[index * DIGEST_SIZE_BYTES : (index + 1) * DIGEST_SIZE_BYTES] = digest

    # The last blocks

    @property
    def next_block(self) -> int:
        """The next height down that is needed; 0 when all are here."""
        return self._next if self._next > self._base else 0

    @property
    def blocks_left(self) -> int:
        return self._next - self._base

    def take_blocks(self, values: Value) -> int:
        """Use blocks from `next_block` downwards; how many were taken."""
        if type(values) is not tuple or not values:
            raise BadPiece("not a list of blocks")
        before = self._next
        for value in values:
            if self.next_block:
                self._take_block(value)
        return before - self._next

    def _take_block(self, value: Value) -> None:
        assert self._above is not None
        height, (block_hash, results) = self._next, self._above
        try:
            match value:
                case (header_value, bytes(wire), tuple(receipt_values), bytes(previous)):
                    header, block = Header.from_value(header_value), decode_certified(wire)
                    receipts = tuple(map(Receipt.from_value, receipt_values))
                case _:
                    raise BadPiece("not a block of a snapshot")
        except CodecError:
            raise BadPiece("not a block of a snapshot") from None
        if header.hash(self._chain_id) != block_hash or header.height != height:
            raise BadPiece(f"not the header at height {height}")
        self._check_block(block, header)
        if next_results_hash(previous, height, receipts_root(receipts)) != results:
            raise BadPiece(f"not the receipts of block {height}")
        self._kv.write(_rows_of_block(block, header, receipts, previous))
        self._above, self._next = (header.parent_hash, previous), height - 1

    def _check_block(self, block: CertifiedBlock, header: Header) -> None:
        certificate, digest = block.certificate, block.proposal.digest
        said = (certificate.epoch, certificate.height, certificate.phase, certificate.digest)
        if digest != header.proposal_digest or not block.batches_match():
            raise BadPiece(f"not the block at height {header.height}")
        if said != (header.epoch, header.height, Phase.COMMIT, digest) or header.epoch > self.epoch:
            raise BadPiece(f"not the certificate of block {header.height}")
        if not certificate.valid(self._chain_id, self._sets[header.epoch]):
            raise BadPiece(f"no quorum decided block {header.height} like this")

    # The end

    def is_complete(self) -> bool:
        return self.target is not None and not (self.missing_parts() or self._missing or self.next_block)

    def finish(self) -> Tip:
        """Make it a store at the target, durable on return. ValueError while pieces are missing."""
        if self.target is None or not self.is_complete():
            raise ValueError("pieces are missing")
        certificate, header = self.target.certificate, self.target.header
        state = StateStore(self._kv, certificate.height)
        if state.tree.root != certificate.state_root:
            raise Corruption("what was put together is not under the certified root")
        tip = Tip.at_checkpoint(header, self._chain_id, certificate.results_hash, state)
        validators = tip.validators
        if validators.epoch > self.epoch:
            raise ValueError("what closed the last epoch is missing")
        for rows, repeated in _derived_rows(self._kv, self._base, certificate.height):
            self._kv.write(rows, repeated)
        puts = {
            schema.GENESIS_KEY: self._genesis.to_json().encode(),
            schema.TIP_KEY: encode(tip.to_value()),
            schema.PRUNED_KEY: schema.pack_height(self._base),
            schema.INDEXED_KEY: schema.pack_height(certificate.height),
            schema.at_height(schema.ROOT, certificate.height): certificate.state_root,
            schema.at_height(schema.RESULTS, certificate.height): certificate.results_hash,
            schema.at_height(schema.CHECKPOINT, certificate.height): encode(certificate.to_value()),
            schema.at_height(schema.VALIDATORS, 0): encode(self._sets[0].to_value()),
            schema.at_height(schema.VALIDATORS, validators.epoch): encode(validators.to_value()),
        }
        # Its number must be below those of the checkpoints to come.
        row = self._leaf_log.whole(certificate.height, present(bytes(self._have)))
        puts[row.key] = row.data
        self._kv.write(puts.items(), row.replaced, sync=True)
        self._kv.write([(schema.FORMAT_KEY, schema.FORMAT)], sync=True)
        return tip


def digest_of_part(leaves: bytes) -> bytes:
    """The digest, among the sixteen under the root, over the digests of a part's buckets."""
    level, width = leaves, FANOUT * DIGEST_SIZE_BYTES
    for _ in range(_LEVELS_IN_PART):
        level = b"".join([parent_hash(level[at : at + width]) for at in range(0, len(level), width)])
    return level


def entries_of(bucket: int, value: Value, digest: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(key, key hash, encoded value) of a bucket's entries, which stand under `digest`; BadPiece if they do not."""
    rows = _rows_of(bucket, value)
    if _digest_of(rows) != digest:
        raise BadPiece(f"not the entries of bucket {bucket} under the certified root")
    return rows


def _rows_of(bucket: int, value: Value) -> list[tuple[bytes, bytes, bytes]]:
    """(key, key hash, encoded value) of a bucket's entries, by rising key hash."""
    if type(value) is not tuple or len(value) % 2 or not all(type(item) is bytes for item in value):
        raise BadPiece(f"bucket {bucket} is not a list of entries")
    items: Sequence[bytes] = value  # type: ignore[assignment]
    rows = [(key, hash_key(key), data) for key, data in zip(items[::2], items[1::2], strict=True)]
    if any(bucket_of(key_hash) != bucket for _, key_hash, _ in rows):
        raise BadPiece(f"an entry does not belong into bucket {bucket}")
    return sorted(rows, key=lambda row: row[1])


def _digest_of(rows: list[tuple[bytes, bytes, bytes]]) -> bytes:
    return bucket_hash(b"".join([key_hash + sha256(data).digest() for _, key_hash, data in rows]))


def _rows_of_block(
    block: CertifiedBlock, header: Header, receipts: tuple[Receipt, ...], previous: bytes
) -> list[tuple[bytes, bytes]]:
    height = header.height
    proposed = encode((block.proposal.to_value(), block.certificate.to_value()))
    rows = [
        (schema.at_height(schema.HEADER, height), encode(header.to_value())),
        (schema.at_height(schema.PROPOSAL, height), proposed),
        (schema.at_height(schema.RESULTS, height - 1), previous),
    ]
    rows += [(schema.batch_key(height, number), batch.wire) for number, batch in enumerate(block.batches)]
    exceptions = exceptions_of(receipts)
    if exceptions:
        rows.append((schema.at_height(schema.EXCEPTIONS, height), encode(exceptions)))
    return rows


def _derived_rows(kv: KeyValue, base: int, last: int) -> Iterator[tuple[list[tuple[bytes, bytes]], list[bytes]]]:
    """For each block above `base`: places of its transactions and batches, as `ChainStore.commit` adds them, and its
    batches that an earlier block ordered too, to be deleted. Begun again, it comes to the same."""
    ordered: dict[bytes, tuple[int, int]] = {}
    placed: set[bytes] = set()
    for height in range(base + 1, last + 1):
        puts: list[tuple[bytes, bytes]] = []
        deletes: list[bytes] = []
        ids: list[bytes] = []
        for number, digest in enumerate(_batches_at(kv, height)):
            place = ordered.setdefault(digest, (height, number))
            puts.append((schema.ORDERED + digest, schema.pack_ordered(*place, height)))
            if place != (height, number):
                deletes.append(schema.batch_key(height, number))
            key = schema.batch_key(*place)
            ids += read_batch(_present(kv, key), key).tx_ids
        exceptions = exceptions_at(kv, height)
        for position, tx_id in enumerate(ids):
            if not exceptions.get(position, PLAIN)[0] or tx_id not in placed:
                puts.append((schema.TRANSACTION + tx_id, schema.pack_place(height, position)))
                placed.add(tx_id)
        yield puts, deletes


def _present(kv: KeyValue, key: bytes) -> bytes:
    data = kv.get(key)
    if data is None:
        raise Corruption(f"record {key.hex()} is missing")
    return data


def _batches_at(kv: KeyValue, height: int) -> tuple[bytes, ...]:
    key = schema.at_height(schema.PROPOSAL, height)
    match decode_record(_present(kv, key), key):
        case (proposal, _):
            return Proposal.from_value(proposal).batches
    raise Corruption(f"record {key.hex()} is not a proposal")
