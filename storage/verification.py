"""Checks of a store that trust nothing in it: a second execution from genesis where every block is kept, signatures and
hashes where old blocks were pruned.

Must not know: networks, files, or whose store it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise, zip_longest

from ledger.block import Certificate, CertifiedBlock, Phase, Proposal, Receipt, next_results_hash, receipts_root
from ledger.codec import encode
from ledger.crypto import verify, verify_joined
from ledger.errors import CodecError
from ledger.execution import BlockResult, Executor, Tip
from ledger.genesis import Genesis
from ledger.proofcheck import Refused, Trusted, check
from ledger.stateproof import StateProof
from ledger.validators import ValidatorSet
from storage import schema
from storage.bundles import Bundler, Unprovable
from storage.chain import VALIDATORS_KEY, ChainStore, check_agrees, index_entries, read_positions
from storage.errors import Corruption
from storage.kv import KeyValue, prefix_end
from storage.memory import MemoryKeyValue
from storage.statetree import StateStore

Progress = Callable[[int, int], None]
"""Hears (height, tip's height)."""


def _nobody(height: int, tip_height: int) -> None:
    pass


def check_head(store: ChainStore) -> int:
    """The state under the last root is whole, and the root at the height returned, the last certified one, is what a
    quorum signed, whose validators lead back to genesis. Unprovable where nothing is certified yet, Refused where the
    certificates do not lead there, Corruption where the state is another."""
    store.check_state()
    genesis = Genesis.from_json(store.genesis_json)
    proven = check(Bundler(store).head(), Trusted(genesis.chain_id, 0, genesis.validator_set.keys), verify)
    if store.state_root(proven.height) != proven.fact["state_root"]:
        raise Corruption(f"the state at height {proven.height} is not the certified one")
    return proven.height


def verify_store(kv: KeyValue, store: ChainStore, executor: Executor, progress: Progress = _nobody) -> None:
    """The check that fits what is kept. Corruption names the height and what differs."""
    check_shapes(kv)
    _check_heights(kv, store)
    with _naming("epochs"):
        _check_epochs(kv, store)
    with _naming("batches"):
        _check_batches(kv, store)
    if store.known_from > 1:
        verify_kept(kv, store, executor, progress)
    else:
        verify_chain(kv, store, executor, progress)


def check_shapes(kv: KeyValue) -> None:
    """Every row is of a kind that is known, and of its sizes: only then can the rest be read."""
    for key, value in kv.scan(b""):
        if not schema.is_shaped(key, value):
            raise Corruption(f"row {key[:40].hex()} is of no kind that is known")


def _check_heights(kv: KeyValue, store: ChainStore) -> None:
    """Nothing is told of blocks above the tip, nor of transactions in blocks that are gone; and the last is there."""
    tip_height = store.tip.height
    if store.pruned > max(0, tip_height - 1) or store.known_from > tip_height + 1:
        raise Corruption("it says that blocks are gone which it never had")
    for prefix in (
        schema.PROPOSAL,
        schema.HEADER,
        schema.BATCH,
        schema.RESULTS,
        schema.EXCEPTIONS,
        schema.ROOT,
    ):
        first = store.pruned + 1 if prefix == schema.EXCEPTIONS else 0
        for key, _ in kv.scan_prefix(prefix):
            if not first <= schema.height_of(key) <= tip_height:
                raise Corruption(f"row {key.hex()} is of a height that is not kept")


def _check_batches(kv: KeyValue, store: ChainStore) -> None:
    """There are the batches that blocks which are kept ordered, and no others, and each names the last of these. That
    their bytes have those digests is seen with the blocks."""
    last = {digest: height for height in _kept(store) for digest in _decided(store, height)[0].batches}
    found = 0
    for key, value in kv.scan_prefix(schema.ORDERED):
        digest, (first, number, until) = key[len(schema.ORDERED) :], schema.unpack_ordered(value)
        about = (until, kv.get(schema.batch_key(first, number)) is not None)
        _same(f"place of batch {digest.hex()}", about, (last.get(digest), True))
        found += 1
    _same("number of batches' places", found, len(last))
    _same("number of batches", sum(1 for _ in kv.scan_prefix(schema.BATCH)), len(last))


def _kept(store: ChainStore) -> range:
    return range(store.pruned + 1, store.tip.height + 1)


def _check_epochs(kv: KeyValue, store: ChainStore) -> None:
    """Each set of validators follows from the one before, those above the tip by what closed their epoch; and what is
    certified above the tip is so by one of them."""
    sets = store.validator_sets()
    _same("validators of genesis", sets[:1], [Genesis.from_json(store.genesis_json).validator_set])
    for before, following in pairwise(sets):
        _same("numbers of epochs", following.epoch, before.epoch + 1)
        certificate, link = store.checkpoint(following.first_height - 1), store.link(before.epoch)
        if following.epoch > store.tip.validators.epoch and (certificate is None or link is None):
            raise Corruption(f"what closed epoch {before.epoch} is missing")
        if certificate is None or link is None:
            continue  # executed here, and the certificate not come yet
        encoded, entries, siblings = link
        told = encode(following.to_value())
        about = (certificate.epoch, certificate.valid(store.chain_id, before), encoded)
        _same(f"what closed epoch {before.epoch}", about, (before.epoch, True, told))
        proof = StateProof.from_value((entries, siblings)).verify(certificate.state_root, VALIDATORS_KEY, told)
        _same(f"what leads to epoch {following.epoch}", proof, True)
    for key, _ in kv.scan(schema.at_height(schema.CHECKPOINT, store.tip.height + 1), prefix_end(schema.CHECKPOINT)):
        certificate = store.checkpoint(schema.height_of(key))
        validators = None if certificate is None else store.validator_set(certificate.epoch)
        if (
            certificate is None
            or certificate.height != schema.height_of(key)
            or validators is None
            or not certificate.valid(store.chain_id, validators)
        ):
            raise Corruption(f"the checkpoint at height {schema.height_of(key)} is certified by nobody known")


# A second execution


def verify_chain(
    kv: KeyValue,
    store: ChainStore,
    executor: Executor,
    progress: Progress = _nobody,
    *,
    scratch: KeyValue | None = None,
) -> None:
    """Re-check everything stored against a second execution from genesis.

    `executor` is a fresh one of this chain, `kv` what the store lies in, `scratch` an empty one for the second state;
    in memory if not given.
    """
    if executor.genesis.chain_id != store.chain_id or len(executor.replay):
        raise ValueError("verification needs a fresh executor of this chain")
    _Replay(kv, store, executor, MemoryKeyValue() if scratch is None else scratch).run(progress)


class _Replay:
    """The second execution."""

    def __init__(self, kv: KeyValue, store: ChainStore, executor: Executor, scratch: KeyValue) -> None:
        self._kv, self._store, self._executor = kv, store, executor
        self._state = StateStore(scratch, 0)

    def run(self, progress: Progress) -> None:
        store = self._store
        changes, tip = self._executor.begin()
        with _naming("genesis"):
            _same("state root", store.state_root(0), self._state.write(changes, 0, seal=True))
            _same("results hash", store.results_hash(0), tip.results_hash)
            _same("validators", store.validator_set(tip.validators.epoch), tip.validators)
        transactions = index_entries = 0
        for height in range(1, store.tip.height + 1):
            with _naming(f"block {height}"):
                result = self._block(height, tip)
                transactions += _places_in(store, height, result.receipts)
                index_entries += self._index(height, result)
            tip = result.tip
            progress(height, store.tip.height)
        with _naming(f"after block {tip.height}"):
            _same("tip", store.tip, tip)
            for kind, prefix, count in (
                ("number of transaction places", schema.TRANSACTION, transactions),
                ("number of index entries", schema.INDEX, index_entries),
                ("number of headers", schema.HEADER, tip.height),
            ):
                _same(kind, sum(1 for _ in self._kv.scan_prefix(prefix)), count)
            for ours, theirs in zip_longest(store.state_entries(), self._state.entries()):
                _same("state", ours, theirs)
            store.check_state()

    def _block(self, height: int, tip: Tip) -> BlockResult:
        store, executor = self._store, self._executor
        block = _whole(store, height, tip.validators)
        result = executor.execute(self._state, tip, block.proposal, block.batches)
        for tx in result.transactions:
            _same(f"signature of transaction {tx.id.hex()}", verify_joined(tx.wire), True)
        _same("header", store.header(height), result.header)
        _same("receipts", store.receipts(height), result.receipts)
        _same("results hash", store.results_hash(height), result.tip.results_hash)
        root = self._state.write(result.changes, height, seal=result.is_checkpoint)
        _same("state root", store.state_root(height), root)
        _same("validators", store.validator_set(result.tip.validators.epoch), result.tip.validators)
        checkpoint = store.checkpoint(height)
        if checkpoint is not None:
            check_agrees(checkpoint, (result.tip.block_hash, root, result.tip.results_hash))
            about_checkpoint = (checkpoint.height, checkpoint.valid(store.chain_id, tip.validators))
            _same("checkpoint certificate", about_checkpoint, (height, True))
        executor.accept(result.transactions, height)
        return result

    def _index(self, height: int, result: BlockResult) -> int:
        entries = index_entries(height, result.indexes)
        for entry, positions in entries.items():
            _same(f"index entry {entry.hex()}", self._kv.get(entry), schema.pack_positions(positions))
        return len(entries)


def _places_in(store: ChainStore, height: int, receipts: tuple[Receipt, ...]) -> int:
    """How many of a block's transactions are found at this very block; those executed must be. So if the sum is the
    number of all places, each names a transaction that stands there."""
    count = 0
    for position, receipt in enumerate(receipts):
        place = store.place(receipt.tx_id)
        is_here = place == (height, position)
        # Of one that was refused, a copy may have had the place, and be pruned.
        if receipt.ok or (place is None and not store.pruned):
            _same(f"place of transaction {receipt.tx_id.hex()}", is_here, True)
        count += is_here
    return count


# What is left after pruning


def verify_kept(kv: KeyValue, store: ChainStore, executor: Executor, progress: Progress = _nobody) -> None:
    """Re-check a pruned store: that its headers form one chain, each decided by a quorum of its epoch; that
    whole blocks are what was decided, and their receipts what was certified; that the state is the certified one, and
    what the blocks above made of it. Whether the rules were kept before that state rests on its certificate. Of the
    indexes only so much can be told: that they name transactions that stand where they say.
    """
    tip_height = store.tip.height
    first, parent, results = 1, store.chain_id, store.results_hash(store.pruned)
    if store.header(1) is None:  # begun from a snapshot: what is below was never here
        first = store.pruned + 1
        oldest = store.header(first)
        parent = store.chain_id if oldest is None else oldest.parent_hash
    for height in range(first, tip_height + 1):
        with _naming(f"block {height}"):
            header = store.header(height)
            if header is None:
                raise Corruption("the header is missing")
            _same("header's parent", (header.height, header.parent_hash), (height, parent))
            validators = store.validator_set(header.epoch)
            if validators is None:
                raise Corruption(f"the validators of epoch {header.epoch} are missing")
            if height > store.pruned:
                block = _whole(store, height, validators)
                proposal = block.proposal
                results = _kept_results(store, block, results)
            else:
                proposal, certificate = _decided(store, height)
                _check_decision(store, height, proposal, certificate, validators)
            _same("header", header.proposal_digest, proposal.digest)
            checkpoint = store.checkpoint(height)
            if checkpoint is not None:
                _same("checkpoint certificate", checkpoint.valid(store.chain_id, validators), True)
                ours = (header.hash(store.chain_id), store.state_root(height), store.results_hash(height))
                check_agrees(checkpoint, ours)
            parent = header.hash(store.chain_id)
        progress(height, tip_height)
    with _naming(f"after block {tip_height}"):
        _same("tip", (store.tip.block_hash, store.tip.results_hash), (parent, results))
        _check_found(kv, store)
        try:
            check_head(store)
        except (Unprovable, Refused) as error:
            raise Corruption(f"its certificates do not lead back to genesis ({error})") from None
    store.resume(executor)


def _check_found(kv: KeyValue, store: ChainStore) -> None:
    """Places name transactions that stand there, and indexes of whole blocks places where one stands."""
    first, places = store.known_from, 0
    counts: dict[int, int] = {}
    for height in _kept(store):
        receipts = store.receipts(height)
        counts[height] = len(receipts)
        places += _places_in(store, height, receipts)
    _same("number of transaction places", sum(1 for _ in kv.scan_prefix(schema.TRANSACTION)), places)
    for key, data in kv.scan_prefix(schema.INDEX):
        height, positions = schema.indexed_height(key), read_positions(key, data)
        good = list(positions) == sorted(set(positions)) and positions[-1] < counts.get(height, 0)
        _same(f"index entry {key.hex()}", height < first or good, True)


def _kept_results(store: ChainStore, block: CertifiedBlock, previous: bytes | None) -> bytes:
    if previous is None:
        raise Corruption("the results before it are missing")
    results = next_results_hash(previous, block.height, receipts_root(store.receipts(block.height)))
    _same("results hash", store.results_hash(block.height), results)
    return results


# Blocks


def _decided(store: ChainStore, height: int) -> tuple[Proposal, Certificate]:
    found = store.proposed(height)
    if found is None:
        raise Corruption("the block is missing")
    return found


def _whole(store: ChainStore, height: int, validators: ValidatorSet) -> CertifiedBlock:
    block = store.block(height)
    if block is None:
        raise Corruption("the block is missing")
    _check_decision(store, height, block.proposal, block.certificate, validators)
    _same("batches", block.batches_match(), True)
    return block


def _check_decision(
    store: ChainStore, height: int, proposal: Proposal, certificate: Certificate, validators: ValidatorSet
) -> None:
    about = (certificate.height, certificate.phase, certificate.digest, proposal.height)
    _same("certificate", about, (height, Phase.COMMIT, proposal.digest, height))
    _same("certificate's signatures", certificate.valid(store.chain_id, validators), True)


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say in which block something was found."""
    try:
        yield
    except (Corruption, CodecError) as error:
        raise Corruption(f"{where}: {error}") from error


def _same(what: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise Corruption(f"{what}: what is stored is not what it must be")
