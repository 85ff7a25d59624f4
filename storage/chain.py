"""The chain store: blocks, receipts, indexes and state of one node, each block in one atomic write.

A block that is half stored cannot exist: everything derived from it goes into the same write as the tip. But for the
state, which is written at checkpoints: who opens a store and needs the state at its tip calls `resume`, which executes
the blocks above the last one again. Writes are not synced by default, since what was lost can be fetched from peers and
executed again; the write-ahead log of votes is what must be durable. Opening checks that tip, header and state tree
belong together.

Pure data in and out: no clock, no tasks. Not for use from two threads at once.

Must not know: how blocks are agreed on, or what the backend is. Keys are in storage/schema.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from ledger import merkle
from ledger.block import (
    Certificate,
    CertifiedBlock,
    CheckpointCertificate,
    Header,
    Proposal,
    Receipt,
    encode_certified,
    receipts_root,
)
from ledger.codec import Value, encode
from ledger.errors import Code, CodecError, ConfigError
from ledger.execution import BlockResult, Executor, Tip
from ledger.genesis import Genesis
from ledger.modules import members
from ledger.state import Changes, state_key
from ledger.stateproof import RECEIPT_PROOF_HEIGHTS_MAX, Inclusion, ReceiptProof, TransactionProof
from ledger.transaction import Batch, Transaction
from ledger.validators import ValidatorSet
from storage import schema
from storage.errors import AlreadyInitialised, Corruption, NotInitialised, StateDiverged, VersionMismatch
from storage.kv import KeyValue, check_limit, prefix_end
from storage.statetree import ProvenState, StateStore, StateTree, decode_record

RECEIPTS_ROOTS_CACHED_MAX = 2 * RECEIPT_PROOF_HEIGHTS_MAX  # recomputed from receipts; 33 bytes each

VALIDATORS_KEY = state_key("members", "validators")

T = TypeVar("T")

Outcome = tuple[int, tuple[str | int | bytes, ...]]  # (code, detail) of a receipt
PLAIN: Outcome = (0, ())  # most: of these nothing is stored

Place = tuple[int, int]  # (height, position of the transaction in the block)


@dataclass(frozen=True, slots=True)
class Event:
    """One ordered transaction and what became of it."""

    height: int
    position: int
    transaction: Transaction
    receipt: Receipt


class ChainStore:
    """One node's chain over a key-value store. It is also the rules' `Reader`: the state after the tip, if resumed."""

    def __init__(self, kv: KeyValue) -> None:
        """Open. NotInitialised if there is no chain; Corruption if what belongs together does not."""
        self._kv = kv
        stored_format, genesis, tip = map(kv.get, (schema.FORMAT_KEY, schema.GENESIS_KEY, schema.TIP_KEY))
        if stored_format is None:
            raise NotInitialised("the chain store", "there is no chain here: run `medchain init`")
        if stored_format != schema.FORMAT:
            raise VersionMismatch("the chain store", found=_version(stored_format), supported=_version(schema.FORMAT))
        if genesis is None or tip is None:
            raise Corruption("genesis or tip is missing")
        self.genesis_json = genesis.decode(errors="replace")
        try:
            self.chain_id = Genesis.from_json(self.genesis_json).chain_id
        except ConfigError:
            raise Corruption("the genesis is damaged") from None
        self._tip = _read(Tip.from_value, tip, schema.TIP_KEY)
        pruned = kv.get(schema.PRUNED_KEY)
        self._pruned = 0 if pruned is None else schema.unpack_height(pruned)
        indexed = kv.get(schema.INDEXED_KEY)
        self._indexed = 0 if indexed is None else schema.unpack_height(indexed)
        refetch = kv.get(schema.REFETCH_KEY)
        self._refetch = 0 if refetch is None else schema.unpack_height(refetch)
        self._state = StateStore(kv, self._tip.checkpoint_height)
        self._state_height = self._tip.checkpoint_height
        self.get = self._state.get  # the rules' Reader, without a call in between
        self._closed = 0  # epochs before this one are known to be closed by a certificate
        self._receipts_root = lru_cache(RECEIPTS_ROOTS_CACHED_MAX)(self._compute_receipts_root)
        self._check_tip()

    @classmethod
    def create(cls, kv: KeyValue, genesis_json: str, changes: Changes, tip: Tip) -> ChainStore:
        """Write a new chain's beginning (`Executor.begin`) and open it. AlreadyInitialised if it holds a chain."""
        if kv.get(schema.FORMAT_KEY) is not None:
            raise AlreadyInitialised("the chain store")
        staged = StateStore(kv, 0).stage(changes, 0, seal=True)
        puts = staged.puts
        puts[schema.FORMAT_KEY] = schema.FORMAT
        puts[schema.GENESIS_KEY] = genesis_json.encode()
        puts[schema.TIP_KEY] = encode(tip.to_value())
        puts[schema.at_height(schema.RESULTS, 0)] = tip.results_hash
        puts[schema.at_height(schema.VALIDATORS, tip.validators.epoch)] = encode(tip.validators.to_value())
        kv.write(puts.items(), staged.deletes, sync=True)
        return cls(kv)

    def _check_tip(self) -> None:
        tip = self._tip
        if tip.height:
            header = self.header(tip.height)
            if header is None or header.hash(self.chain_id) != tip.block_hash:
                raise Corruption(f"header {tip.height} is not the tip's")
        elif tip.block_hash != self.chain_id:
            raise Corruption("the tip at height 0 is not this genesis")
        if self.state_root(tip.checkpoint_height) != self._state.tree.root:
            raise Corruption(f"state tree differs from its root at height {tip.checkpoint_height}")
        if self._state.leaves_height > tip.checkpoint_height:
            raise Corruption(f"digests of the state at height {self._state.leaves_height}, which has no root")

    @property
    def tip(self) -> Tip:
        return self._tip

    @property
    def pruned(self) -> int:
        """The height up to which only headers and certificates are kept; 0 where nothing was pruned."""
        return self._pruned

    @property
    def diverged(self) -> tuple[int, bytes] | None:
        """(height, certified root) where this state is known to be another than the validators'; None otherwise."""
        data = self._kv.get(schema.DIVERGED_KEY)
        return None if data is None else (schema.unpack_height(data[:8]), data[8:])

    def quarantine(self, height: int, certified_root: bytes) -> None:
        """Durably: this state is not what a quorum certified, and no node may start on it."""
        self._kv.write([(schema.DIVERGED_KEY, schema.pack_height(height) + certified_root)], sync=True)

    @property
    def known_from(self) -> int:
        """The first height of which indexes tell. A store begun from a snapshot has none of the blocks up to there."""
        return max(self._pruned, self._indexed) + 1

    @property
    def tree(self) -> StateTree:
        """The commitment of the state at the last checkpoint."""
        return self._state.tree

    def is_muted(self, key: bytes, *, for_good: bool = False) -> bool:
        """Whether this validator's key may sign nothing: not any more, or (unless `for_good` is asked) not yet."""
        return self._kv.get(schema.MUTED + key) is not None or (not for_good and self.refetching > 0)

    def may_have_signed(self, key: bytes) -> bool:
        """Whether the key is in the validator set of any epoch that is known of (who joins knows of some above the
        tip), or of the one that is decided to come."""
        if self._state_height != self._tip.height:
            raise ValueError("what is decided to come is known once the state is at the tip")
        sets = [*self.validator_sets(), members.next_validators(self)]
        return any(one is not None and one.index(key) is not None for one in sets)

    def mute(self, key: bytes) -> None:
        """Durably: the key signed what this node does not know of."""
        self._kv.write([(schema.MUTED + key, b"")], sync=True)

    @property
    def refetching(self) -> int:
        """The height up to which lost blocks are fetched again; 0 once a checkpoint there or above is certified."""
        if self._refetch:
            checkpoint = self.latest_checkpoint()
            if checkpoint is not None and checkpoint.height >= self._refetch:
                self._refetch = 0
        return self._refetch

    def refetch(self, height: int) -> None:
        """Durably: blocks up to `height` were here once, and no key signs before they are here again."""
        self._kv.write([(schema.REFETCH_KEY, schema.pack_height(height))], sync=True)
        self._refetch = height

    # State

    def state_bytes(self, key: bytes) -> bytes | None:
        """The encoded state value after the tip; None when absent."""
        return self._state.get_bytes(key)

    def state_bytes_at_root(self, key: bytes) -> bytes | None:
        """The same as of the last checkpoint's root."""
        return self._state.get_bytes_at_root(key)

    def state_root(self, height: int) -> bytes | None:
        """The root computed at checkpoint `height` (0: genesis); None where none was."""
        return self._kv.get(schema.at_height(schema.ROOT, height))

    def prove_state(self, key: bytes) -> ProvenState:
        """The entry as it was at the last checkpoint, with proof. The tip may have moved on; the certificate of that
        checkpoint (`checkpoint(height)`) may be some messages away.
        """
        return self._state.prove(key)

    def resume(self, executor: Executor) -> None:
        """Execute the blocks above the last root again, in memory, so that the state is that after the tip; and fill
        the window of `executor`, which is a fresh one. Until then the state is as of that root, and no block can be
        added. Corruption where a block gives another result than it did: such a store is of no use. Called again, it
        only fills a window.
        """
        root_height = self._tip.checkpoint_height
        if self._state_height not in (root_height, self._tip.height):
            raise ValueError("it was begun before, and failed")
        executed = self._tip_at_root(executor) if self._state_height == root_height else self._tip
        first = root_height - executor.genesis.parameters.validity_heights_max + 1
        for height, transactions in self.transactions_since(first, self._state_height):
            executor.accept(transactions, height)
        while executed.height < self._tip.height:
            executed = self._execute_again(executor, executed)
        if executed != self._tip:
            raise Corruption(f"block {self._tip.height}: executed again, it leads to another tip")

    def _tip_at_root(self, executor: Executor) -> Tip:
        height = self._tip.checkpoint_height
        if height == 0:
            return executor.begin()[1]
        header, results_hash = self.header(height), self.results_hash(height)
        if header is None or results_hash is None:
            raise Corruption(f"block {height} is missing")
        try:
            return Tip.at_checkpoint(header, self.chain_id, results_hash, self)
        except CodecError as error:
            raise Corruption(f"the state at height {height}: {error}") from None

    def _execute_again(self, executor: Executor, tip: Tip) -> Tip:
        height = tip.height + 1
        block = self.block(height)
        if block is None or block.proposal.height != height:
            raise Corruption(f"block {height} is missing")
        result = executor.execute(self, tip, block.proposal, block.batches)
        if (self.header(height), self.results_hash(height)) != (result.header, result.tip.results_hash):
            raise Corruption(f"block {height}: executed again, it gives another result")
        self._state.adopt(self._state.stage(result.changes, height, seal=False))
        self._state_height = height
        executor.accept(result.transactions, height)
        return result.tip

    # Writing

    def commit(self, block: CertifiedBlock, result: BlockResult, *, sync: bool = False) -> bytes | None:
        """Store the block after the tip and all that came of it; at a checkpoint, the new state root.

        One atomic write. If it fails, nothing has changed here and the same call may be made again. StateDiverged if a
        quorum has certified something else: this store is quarantined then, with what it made of the block, so that the
        difference can be found.
        """
        height, tip = block.height, result.tip
        if height != self._tip.height + 1 or tip.height != height or self._state_height != self._tip.height:
            raise ValueError(f"block {height} cannot follow {self._tip.height}, with the state at {self._state_height}")
        if result.header.proposal_digest != block.proposal.digest or len(result.transactions) != len(result.receipts):
            raise ValueError(f"the result is not of block {height}")
        staged = self._state.stage(result.changes, height, seal=result.is_checkpoint)
        root = None if staged.tree is None else staged.tree.root
        certified, ours = self.checkpoint(height), (tip.block_hash, root, tip.results_hash)
        puts = staged.puts
        if certified is not None and not agrees(certified, ours):
            puts[schema.DIVERGED_KEY] = schema.pack_height(height) + certified.state_root
        self._put_block(puts, block, result)
        self._put_transactions(puts, height, result)
        puts[schema.TIP_KEY] = encode(tip.to_value())
        if tip.validators.epoch != self._tip.validators.epoch:
            key = schema.at_height(schema.VALIDATORS, tip.validators.epoch)
            puts[key] = encode(tip.validators.to_value())
            assert staged.tree is not None, "an epoch ends with a checkpoint"
            link = staged.tree.prove(VALIDATORS_KEY)
            value = encode((encode(tip.validators.to_value()), *link.to_value()))
            puts[schema.at_height(schema.LINK, self._tip.validators.epoch)] = value
        self._kv.write(puts.items(), staged.deletes, sync=sync)
        self._state.adopt(staged)
        self._tip, self._state_height = tip, height
        if certified is not None:
            check_agrees(certified, ours)
        return root

    def _put_block(self, puts: dict[bytes, bytes], block: CertifiedBlock, result: BlockResult) -> None:
        height = block.height
        value = (block.proposal.to_value(), block.certificate.to_value())
        puts[schema.at_height(schema.PROPOSAL, height)] = encode(value)
        for number, (digest, batch) in enumerate(zip(block.proposal.batches, block.batches, strict=True)):
            key = schema.ORDERED + digest
            ordered = self._kv.get(key)
            if ordered is None:
                puts[schema.batch_key(height, number)] = batch.wire
                puts[key] = schema.pack_ordered(height, number, height)
            else:
                puts[key] = schema.pack_ordered(*schema.unpack_ordered(ordered)[:2], height)
        puts[schema.at_height(schema.HEADER, height)] = encode(result.header.to_value())
        puts[schema.at_height(schema.RESULTS, height)] = result.tip.results_hash
        exceptions = exceptions_of(result.receipts)
        if exceptions:
            puts[schema.at_height(schema.EXCEPTIONS, height)] = encode(exceptions)

    def _put_transactions(self, puts: dict[bytes, bytes], height: int, result: BlockResult) -> None:
        gone = self.known_from - 1
        for position, receipt in enumerate(result.receipts):
            key = schema.TRANSACTION + receipt.tx_id
            # A copy is refused (replayed, or expired by then): the first execution must stay findable.
            if receipt.code and (key in puts or self._kv.get(key) is not None):
                continue
            # Where it may have been in a block that is pruned nothing is said: it would be called refused.
            if receipt.code == Code.EXPIRED and gone > 0:
                first = result.transactions[position].valid_until - self._tip.parameters.validity_heights_max
                if first <= gone:
                    continue
            puts[key] = schema.pack_place(height, position)
        for entry, positions in index_entries(height, result.indexes).items():
            puts[entry] = schema.pack_positions(positions)

    def put_checkpoint(self, certificate: CheckpointCertificate) -> None:
        """Keep a checkpoint's certificate, already verified; one above the tip is compared when the tip gets there.
        StateDiverged if a quorum agreed on something else than we have: this node's data cannot be trusted any more.
        """
        height = certificate.height
        header = self.header(height)
        if header is not None:
            ours = (header.hash(self.chain_id), self.state_root(height), self.results_hash(height))
            if not agrees(certificate, ours):
                self.quarantine(height, certificate.state_root)
            check_agrees(certificate, ours)
        self._kv.write([(schema.at_height(schema.CHECKPOINT, height), encode(certificate.to_value()))])

    def prune(self, height: int) -> None:
        """Forget what the oldest whole block, which `height` must name, holds beside header and certificate: batches,
        receipts, places of transactions. One atomic write. What indexes say of it is not found from then on, and stays
        on disk until `storage.pruning` sweeps it.
        """
        proposed = self.proposed(height)
        if proposed is None or height != self._pruned + 1 or height >= self._tip.height:
            raise ValueError(f"block {height} is not the oldest of several")
        if height > self._tip.checkpoint_height:
            raise ValueError(f"block {height} is above the last root, and will be executed again")
        deletes = [schema.at_height(schema.EXCEPTIONS, height)]
        for digest in proposed[0].batches:
            first, number, last = self._ordered(digest)
            if last <= height:
                deletes += (schema.batch_key(first, number), schema.ORDERED + digest)
        for tx_id in self._tx_ids(proposed[0]):
            place = self.place(tx_id)
            if place is not None and place[0] <= height:
                deletes.append(schema.TRANSACTION + tx_id)
        self._kv.write([(schema.PRUNED_KEY, schema.pack_height(height))], deletes)
        self._pruned = height

    # Blocks

    def header(self, height: int) -> Header | None:
        key = schema.at_height(schema.HEADER, height)
        data = self._kv.get(key)
        return None if data is None else _read(Header.from_value, data, key)

    def results_hash(self, height: int) -> bytes | None:
        """The chain of results after `height` (0: before the first block)."""
        return self._kv.get(schema.at_height(schema.RESULTS, height))

    def block(self, height: int) -> CertifiedBlock | None:
        """The block as it was committed; None above the tip and where it was pruned."""
        proposed = self.proposed(height)
        if proposed is None or height <= self._pruned:
            return None
        proposal, certificate = proposed
        return CertifiedBlock(proposal, certificate, tuple(map(self._ordered_batch, proposal.batches)))

    def block_wires(self, height: int) -> bytes | None:
        """The block as it travels to peers (`ledger.block.decode_certified`)."""
        block = self.block(height)
        return None if block is None else encode_certified(block)

    def batch(self, digest: bytes) -> Batch | None:
        """A batch that some block ordered, of those that are kept."""
        data = self._kv.get(schema.ORDERED + digest)
        return None if data is None else self._batch_at(digest, *schema.unpack_ordered(data)[:2])

    def has_ordered(self, digest: bytes) -> bool:
        """Whether `batch` has it, without reading it."""
        return self._kv.get(schema.ORDERED + digest) is not None

    def receipts(self, height: int) -> tuple[Receipt, ...]:
        """In the order of the block's transactions; empty for an empty block, above the tip and where pruned."""
        proposed = self.proposed(height)
        if proposed is None or height <= self._pruned:
            return ()
        ids, exceptions = self._tx_ids(proposed[0]), exceptions_at(self._kv, height)
        if exceptions and max(exceptions) >= len(ids):
            raise Corruption(f"block {height} has no transaction {max(exceptions)}")
        return tuple(Receipt(tx_id, *exceptions.get(position, PLAIN)) for position, tx_id in enumerate(ids))

    def validator_set(self, epoch: int) -> ValidatorSet | None:
        """The validators of an epoch that has begun, or begins after the tip."""
        key = schema.at_height(schema.VALIDATORS, epoch)
        data = self._kv.get(key)
        return None if data is None else _read(ValidatorSet.from_value, data, key)

    def validator_sets(self) -> list[ValidatorSet]:
        """All that are known, by epoch."""
        return [_read(ValidatorSet.from_value, data, key) for key, data in self._kv.scan_prefix(schema.VALIDATORS)]

    def link(self, epoch: int) -> tuple[Value, ...] | None:
        """(validators of the next epoch, encoded; entries; siblings): their proof under the root at the epoch's end."""
        key = schema.at_height(schema.LINK, epoch)
        data = self._kv.get(key)
        return None if data is None else _read(_link_from_value, data, key)

    def checkpoint(self, height: int) -> CheckpointCertificate | None:
        """The certificate of the checkpoint at exactly `height`."""
        key = schema.at_height(schema.CHECKPOINT, height)
        data = self._kv.get(key)
        return None if data is None else _read(CheckpointCertificate.from_value, data, key)

    def closing_checkpoint(self, epoch: int) -> CheckpointCertificate | None:
        """The certificate of the checkpoint that closes an epoch: its validators vouch for the next ones."""
        following = self.validator_set(epoch + 1)
        return None if following is None else self.checkpoint(following.first_height - 1)

    def unclosed_epoch(self) -> int | None:
        """The first epoch before the tip's whose closing checkpoint is not certified here; None without one."""
        while self._closed < self._tip.validators.epoch:
            if self.closing_checkpoint(self._closed) is None:
                return self._closed
            self._closed += 1
        return None

    def uncertified(self) -> list[CheckpointCertificate]:
        """The last checkpoint of the epoch before, and the last of this one, as far as they are executed and lack a
        certificate: what there is to sign, and no signatures."""
        validators, height = self._tip.validators, self._tip.checkpoint_height
        ends = {height: validators.epoch, validators.first_height - 1: validators.epoch - 1}
        found = []
        for height, epoch in ends.items():
            header, root, results = self.header(height), self.state_root(height), self.results_hash(height)
            if header is not None and root is not None and results is not None and self.checkpoint(height) is None:
                found.append(CheckpointCertificate(epoch, height, header.hash(self.chain_id), root, results, ()))
        return found

    def latest_checkpoint(self, height: int | None = None) -> CheckpointCertificate | None:
        """The highest certified one that the tip has reached, up to `height` if given."""
        last = self._tip.height if height is None else min(height, self._tip.height)
        start, stop = schema.CHECKPOINT, schema.at_height(schema.CHECKPOINT, last + 1)
        for key, data in self._kv.scan(start, stop, reverse=True, limit=1):
            return _read(CheckpointCertificate.from_value, data, key)
        return None

    def proposed(self, height: int) -> tuple[Proposal, Certificate] | None:
        """What was decided and by whom, kept for every height; None above the tip."""
        key = schema.at_height(schema.PROPOSAL, height)
        data = self._kv.get(key)
        return None if data is None else _read(_proposed_from_value, data, key)

    def _ordered(self, digest: bytes) -> tuple[int, int, int]:
        """(height, number) of where a batch lies, and the last height that ordered it."""
        data = self._kv.get(schema.ORDERED + digest)
        if data is None:
            raise Corruption(f"batch {digest.hex()} is missing")
        return schema.unpack_ordered(data)

    def _ordered_batch(self, digest: bytes) -> Batch:
        return self._batch_at(digest, *self._ordered(digest)[:2])

    def _batch_at(self, digest: bytes, height: int, number: int) -> Batch:
        key = schema.batch_key(height, number)
        data = self._kv.get(key)
        if data is None:
            raise Corruption(f"batch {digest.hex()} is missing")
        return read_batch(data, key)

    # Transactions

    def transaction(self, tx_id: bytes) -> tuple[int, int, Transaction] | None:
        """(height, position, transaction) of its first execution, or of its refusal if it never was executed."""
        place = self.place(tx_id)
        tx = None if place is None else self.transaction_at(place)
        return None if place is None or tx is None else (*place, tx)

    def transaction_at(self, place: Place) -> Transaction | None:
        """The transaction of a place that `lookup` named; None where its block was pruned meanwhile."""
        if place[0] <= self._pruned:
            return None
        batch, index = self._locate(*place)
        return Transaction.decode(batch.wires[index])

    def receipt(self, tx_id: bytes) -> Receipt | None:
        """The receipt at the place `transaction` names."""
        place = self.place(tx_id)
        return None if place is None else Receipt(tx_id, *exceptions_at(self._kv, place[0]).get(place[1], PLAIN))

    def lookup(self, name: str, key: bytes, *, after: Place | None = None, limit: int) -> list[Place]:
        """The places under `key` in the index `name`, oldest first, beyond `after`. No block is read for it."""
        check_limit(limit)
        beyond = after or (0, 0)
        prefix = schema.index_prefix(name, key)
        start = schema.at_height(prefix, max(self.known_from, beyond[0]))
        found: list[Place] = []
        for entry, data in self._kv.scan(start, prefix_end(prefix)):
            height = schema.indexed_height(entry)
            places = ((height, position) for position in read_positions(entry, data))
            found += [place for place in places if after is None or place > after]
            if len(found) >= limit:
                break
        return found[:limit]

    def events(self, after: Place, limit: int) -> list[Event]:
        """Up to `limit` transactions in their order, beyond `after`, of blocks that are kept; (0, 0) is before all."""
        found: list[Event] = []
        for height in range(max(after[0], self._pruned + 1), self._tip.height + 1):
            wires, exceptions = self._wires(height), exceptions_at(self._kv, height)
            first = after[1] + 1 if height == after[0] else 0
            for position in range(first, min(len(wires), first + limit - len(found))):
                tx = Transaction.decode(wires[position])
                found.append(Event(height, position, tx, Receipt(tx.id, *exceptions.get(position, PLAIN))))
            if len(found) >= limit:
                break
        return found

    def transactions_since(self, height: int, last: int | None = None) -> Iterator[tuple[int, tuple[Transaction, ...]]]:
        """(height, transactions) of each block from `height` to `last`, the tip's if not given: what `Executor.accept`
        takes to rebuild its window."""
        for each in range(max(height, self._pruned + 1), (self._tip.height if last is None else last) + 1):
            yield each, tuple(map(Transaction.decode, self._wires(each)))

    def place(self, tx_id: bytes) -> Place | None:
        """(height, position) of its first execution, or of its refusal if it never was executed."""
        data = self._kv.get(schema.TRANSACTION + tx_id)
        return None if data is None else schema.unpack_place(data)

    def _tx_ids(self, proposal: Proposal) -> list[bytes]:
        return [tx_id for digest in proposal.batches for tx_id in self._ordered_batch(digest).tx_ids]

    def _wires(self, height: int) -> list[bytes]:
        proposed = self.proposed(height)
        if proposed is None:
            raise Corruption(f"block {height} is missing")
        return [wire for digest in proposed[0].batches for wire in self._ordered_batch(digest).wires]

    def _locate(self, height: int, position: int) -> tuple[Batch, int]:
        """The batch that holds a block's transaction, and its index there."""
        proposed = self.proposed(height)
        if proposed is None:
            raise Corruption(f"block {height} is missing")
        index = position
        for digest in proposed[0].batches:
            batch = self._ordered_batch(digest)
            if index < len(batch.wires):
                return batch, index
            index -= len(batch.wires)
        raise Corruption(f"block {height} has no transaction {position}")

    # Proofs

    def prove_transaction(self, tx_id: bytes) -> TransactionProof | None:
        """That it was ordered: checked with the validators of `certificate.epoch`. None if unknown."""
        place = self.place(tx_id)
        proposed = None if place is None else self.proposed(place[0])
        if place is None or proposed is None:
            return None
        batch, index = self._locate(*place)
        path = merkle.path(batch.tx_ids, index)
        return TransactionProof(Inclusion(index, len(batch.wires), path), *proposed)

    def prove_receipt(self, tx_id: bytes) -> ReceiptProof | None:
        """What became of it: checked with the validators of `checkpoint.epoch`. None if it is unknown, or until a
        checkpoint at or above its height has been certified.
        """
        place = self.place(tx_id)
        if place is None:
            return None
        height, position = place
        start = schema.at_height(schema.CHECKPOINT, height)
        stop = schema.at_height(schema.CHECKPOINT, self._tip.height + 1)
        for key, data in self._kv.scan(start, stop, limit=1):
            certificate = _read(CheckpointCertificate.from_value, data, key)
            if certificate.height - height > RECEIPT_PROOF_HEIGHTS_MAX:
                return None
            receipts, previous = self.receipts(height), self.results_hash(height - 1)
            if previous is None:
                raise Corruption(f"results hash {height - 1} is missing")
            path = merkle.path([receipt.leaf() for receipt in receipts], position)
            following = tuple(map(self._receipts_root, range(height + 1, certificate.height + 1)))
            inclusion = Inclusion(position, len(receipts), path)
            return ReceiptProof(receipts[position], inclusion, previous, following, certificate)
        return None

    # Checks

    def check_state(self) -> None:
        """The entries of the state are those under its last root. Corruption names the first bucket that differs."""
        self._state.check_leaves()

    def state_entries(self) -> Iterator[tuple[bytes, bytes]]:
        """All (key, encoded value) at the last root."""
        return self._state.entries()

    def _compute_receipts_root(self, height: int) -> bytes:
        return receipts_root(self.receipts(height))


def _read(from_value: Callable[[Value], T], data: bytes, key: bytes) -> T:
    """Decode one of our records; Corruption if it is not what its key says."""
    try:
        return from_value(decode_record(data, key))
    except CodecError as error:
        raise Corruption(f"record {key.hex()}: {error}") from None


def agrees(certificate: CheckpointCertificate, ours: tuple[bytes, bytes | None, bytes | None]) -> bool:
    """Whether (block hash, state root, results hash) are what a quorum signed."""
    return ours == (certificate.block_hash, certificate.state_root, certificate.results_hash)


def check_agrees(certificate: CheckpointCertificate, ours: tuple[bytes, bytes | None, bytes | None]) -> None:
    """Compare (block hash, state root, results hash) with what a quorum signed (Trap 31)."""
    if not agrees(certificate, ours):
        raise StateDiverged(f"checkpoint {certificate.height} differs from what the validators certified")


def read_batch(data: bytes, key: bytes) -> Batch:
    try:
        return Batch.decode(data)
    except CodecError as error:
        raise Corruption(f"record {key.hex()}: {error}") from None


def _link_from_value(value: Value) -> tuple[Value, ...]:
    match value:
        case (bytes(), bytes(), bytes()):
            return value
    raise CodecError("not a link")


def _proposed_from_value(value: Value) -> tuple[Proposal, Certificate]:
    match value:
        case (proposal, certificate):
            return Proposal.from_value(proposal), Certificate.from_value(certificate)
    raise CodecError("not a proposal with its certificate")


def index_entries(height: int, indexes: Iterable[tuple[str, bytes, int]]) -> dict[bytes, list[int]]:
    """The index entries of a block: key -> positions, ascending, from (name, key, position) by position."""
    found: dict[tuple[str, bytes], list[int]] = {}
    for name, key, position in indexes:
        place = name, key
        positions = found.get(place)
        if positions is None:
            found[place] = [position]
        elif positions[-1] != position:
            positions.append(position)
    packed = schema.pack_height(height)
    return {schema.index_prefix(name, key) + packed: positions for (name, key), positions in found.items()}


def read_positions(entry: bytes, data: bytes) -> tuple[int, ...]:
    try:
        return schema.unpack_positions(data)
    except ValueError as error:
        raise Corruption(f"record {entry.hex()}: {error}") from None


def exceptions_of(receipts: Sequence[Receipt]) -> tuple[tuple[int, int, tuple[str | int | bytes, ...]], ...]:
    """(position, code, detail) of those that are not plain successes."""
    return tuple(
        (position, receipt.code, receipt.detail)
        for position, receipt in enumerate(receipts)
        if receipt.code or receipt.detail
    )


def exceptions_at(kv: KeyValue, height: int) -> dict[int, Outcome]:
    """What is kept of a block's receipts, by position; Corruption for what `exceptions_of` never makes."""
    key = schema.at_height(schema.EXCEPTIONS, height)
    data = kv.get(key)
    if data is None:
        return {}
    value = decode_record(data, key)
    found: dict[int, Outcome] = {}
    last = -1
    for item in value if type(value) is tuple else ():
        match item:
            case (position, int(code), tuple(detail)) if type(position) is int and position > last and (code or detail):
                found[position], last = (code, detail), position  # type: ignore[assignment]
            case _:
                raise Corruption(f"record {key.hex()} is not a list of exceptions")
    if not found:
        raise Corruption(f"record {key.hex()} is not a list of exceptions")
    return found


def _version(stored_format: bytes) -> int:
    number = stored_format.rpartition(b"/")[2]
    return int(number) if number.isdigit() and len(number) < 20 else 0
