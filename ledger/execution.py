"""Execution of ordered blocks: the one function from (state, block) to (receipts, changes, next tip), the same on every
node. A refused transaction leaves a receipt and nothing else; an exception in a rule refuses that transaction. What
cannot be read ends the execution instead: no outcome hangs on one node's disk.

Must not know: where blocks come from, or where the result is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.block import Header, Proposal, Receipt, next_results_hash, receipts_root
from ledger.codec import Value
from ledger.errors import Code, CodecError, ConfigError, Reject, Unreadable
from ledger.fields import is_printable
from ledger.genesis import Genesis, Parameters, development_public_keys
from ledger.merkle import EMPTY_ROOT
from ledger.modules import members
from ledger.replay import ReplayWindow
from ledger.rules import (
    INDEXES_PER_TX_MAX,
    WRITES_PER_TX_MAX,
    WRITES_SIZE_BYTES_PER_TX_MAX,
    Context,
    Registry,
)
from ledger.state import Changes, EmptyState, Overlay, Reader
from ledger.transaction import HEIGHT_MAX, Batch, Transaction, check_admissible
from ledger.validators import ValidatorSet

# Together below RECEIPT_SIZE_BYTES_MAX. A key as text takes 66 bytes, a pack's identifier up to 95.
RECEIPT_DETAILS_MAX = 8
RECEIPT_DETAIL_SIZE_BYTES_MAX = 112


@dataclass(frozen=True)
class Tip:
    """The end of the executed chain. `validators` vote on the next height, under `parameters`; `epoch_end` is the last
    height of theirs, where that is decided.
    """

    height: int
    block_hash: bytes
    time_ms: int
    results_hash: bytes
    checkpoint_height: int
    validators: ValidatorSet
    parameters: Parameters
    epoch_end: int | None = None

    @classmethod
    def at_checkpoint(cls, header: Header, chain_id: bytes, results_hash: bytes, state: Reader) -> Tip:
        """The tip as it was at a checkpoint, from its header, the results up to it and the state there."""
        pending = members.next_validators(state)
        return cls(
            height=header.height,
            block_hash=header.hash(chain_id),
            time_ms=header.time_ms,
            results_hash=results_hash,
            checkpoint_height=header.height,
            validators=members.validators_in_force(state),
            parameters=members.parameters_in_force(state),
            epoch_end=None if pending is None else pending.first_height - 1,
        )

    def to_value(self) -> tuple[Value, ...]:
        return (
            self.height,
            self.block_hash,
            self.time_ms,
            self.results_hash,
            self.checkpoint_height,
            self.validators.to_value(),
            self.parameters.to_value(),
            self.epoch_end,
        )

    @classmethod
    def from_value(cls, value: Value) -> Tip:
        match value:
            case (
                int(height),
                bytes(block_hash),
                int(time_ms),
                bytes(results),
                int(checkpoint),
                validators,
                parameters,
                end,
            ):
                if not 0 <= checkpoint <= height <= HEIGHT_MAX:
                    raise CodecError("a tip of an impossible height")
                valid, agreed = ValidatorSet.from_value(validators), Parameters.from_value(parameters)
                return cls(height, block_hash, time_ms, results, checkpoint, valid, agreed, end)  # type: ignore[arg-type]
        raise CodecError("not a tip")


def _keep(overlay: Overlay, context: Context) -> None:
    """Keep what a rule wrote. Raises, and keeps nothing, for what could not be stored in every node's commit."""
    if len(overlay.pending) > WRITES_PER_TX_MAX or len(context.indexes) > INDEXES_PER_TX_MAX:
        raise Reject(Code.TOO_LARGE, "writes")
    if not overlay.keep(WRITES_SIZE_BYTES_PER_TX_MAX):
        raise Reject(Code.TOO_LARGE, "bytes written")


def _receipt_detail(detail: Sequence[object]) -> tuple[str | int | bytes, ...]:
    """What fits a receipt: few, short, encodable values, whatever a rule or a stranger's field put there."""
    kept: list[str | int | bytes] = []
    for item in detail[:RECEIPT_DETAILS_MAX]:
        match item:
            case int() if -(2**63) <= item < 2**63:
                kept.append(int(item))  # an enumeration's member has no encoding
            case bytes():
                kept.append(bytes(item)[:RECEIPT_DETAIL_SIZE_BYTES_MAX])
            case str() if is_printable(item):
                kept.append(item.encode()[:RECEIPT_DETAIL_SIZE_BYTES_MAX].decode(errors="ignore"))
            case _:
                kept.append(type(item).__name__)
    return tuple(kept)


@dataclass(frozen=True)
class BlockResult:
    """All that executing one block produced. `indexes` are (name, key, position of the transaction)."""

    header: Header
    receipts: tuple[Receipt, ...]
    transactions: tuple[Transaction, ...]
    changes: Changes
    indexes: tuple[tuple[str, bytes, int], ...]
    tip: Tip
    is_checkpoint: bool


class Executor:
    """Executes blocks in order. Holds the replay window, which `accept` moves on once a result is stored."""

    def __init__(self, genesis: Genesis, registry: Registry) -> None:
        self.genesis = genesis
        self.registry = registry
        self.replay = ReplayWindow()
        self._validity_heights_max = genesis.parameters.validity_heights_max
        self._refused_keys = frozenset() if genesis.development else development_public_keys()

    def begin(self) -> tuple[Changes, Tip]:
        """The state after genesis and the tip below height 1. ConfigError if a module refuses its part of genesis."""
        genesis, chain_id = self.genesis, self.genesis.chain_id
        overlay = Overlay(EmptyState())
        active = {module.name: module for module in self.registry.modules}
        for name in sorted(genesis.modules):
            module = active.get(name)
            if module is None:
                raise ConfigError(f"genesis: modules.{name}: no such rule module is installed")
            if module.genesis is not None:
                context = Context(overlay, name, b"", chain_id, 0, genesis.time_ms)
                try:
                    module.genesis(genesis.modules[name], context)
                    overlay.keep()
                except (Reject, KeyError, TypeError, ValueError, AttributeError) as error:
                    detail = error.detail if isinstance(error, Reject) else ()
                    raise ConfigError(" ".join(map(str, (f"genesis: modules.{name}: {error}", *detail)))) from error
        members.begin_chain(overlay, chain_id, genesis.validator_set, genesis.parameters)
        overlay.keep()
        tip = Tip(0, chain_id, genesis.time_ms, EMPTY_ROOT, 0, genesis.validator_set, genesis.parameters)
        return overlay.changes, tip

    def execute(self, state: Reader, tip: Tip, proposal: Proposal, batches: Sequence[Batch]) -> BlockResult:
        """Execute the block after `tip`. Pure but for reading the replay window; `accept` the result to go on."""
        height = tip.height + 1
        if proposal.height != height:
            raise ValueError(f"block {proposal.height} cannot follow {tip.height}")
        time_ms = max(tip.time_ms, proposal.time_ms)  # block time never runs backwards
        overlay = Overlay(state)
        transactions = tuple(tx for batch in batches for tx in batch.transactions)
        receipts: list[Receipt] = []
        indexes: list[tuple[str, bytes, int]] = []
        fresh: set[bytes] = set()
        for position, tx in enumerate(transactions):
            replay_key = tx.replay_key
            try:
                if replay_key in self.replay or replay_key in fresh:
                    raise Reject(Code.REPLAYED)
                fresh.add(replay_key)
                context = self._apply(tx, overlay, height, time_ms)
            except Reject as reject:
                overlay.drop()
                receipts.append(Receipt(tx.id, int(reject.code), _receipt_detail(reject.detail)))
            else:
                receipts.append(Receipt(tx.id, 0))
                indexes += [(name, key, position) for name, key in context.indexes]
        following = self._next_tip(overlay, tip, proposal, time_ms, receipts)
        header = Header(height, tip.validators.epoch, tip.block_hash, proposal.digest, time_ms, len(receipts))
        return BlockResult(
            header=header,
            receipts=tuple(receipts),
            transactions=transactions,
            changes=overlay.changes,
            indexes=tuple(indexes),
            tip=Tip(block_hash=header.hash(self.genesis.chain_id), **following),  # type: ignore[arg-type]
            is_checkpoint=following["checkpoint_height"] == height,
        )

    def accept(self, transactions: Sequence[Transaction], height: int) -> None:
        """Move the replay window past `height`, whose block held `transactions`.

        One refused for too long a validity is not remembered: a node that starts reads only the window's own heights,
        and all nodes must remember the same.
        """
        last = height + self._validity_heights_max
        self.replay.add((tx.replay_key, tx.valid_until) for tx in transactions if height < tx.valid_until <= last)
        self.replay.expire(height)

    def check(self, tx: Transaction, height: int) -> None:
        """What can be refused without the state, so at a node's door. Raises Reject."""
        check_admissible(tx, self.genesis.chain_id, height, self._validity_heights_max)
        if tx.sender in self._refused_keys:
            raise Reject(Code.DEVELOPMENT_KEY)
        handler = self.registry.handler(tx.operation, tx.version)
        operation = handler.parse(tx.fields)
        if handler.rule.check is not None:
            handler.rule.check(operation)

    def try_out(self, tx: Transaction, state: Reader, tip: Tip, time_ms: int) -> None:
        """Raise Reject if it would be refused as the only one of the block after `tip`, proposed at `time_ms`. Changes
        nothing, and does not ask whether it was executed before.
        """
        self._apply(tx, Overlay(state), tip.height + 1, max(tip.time_ms, time_ms))

    def _apply(self, tx: Transaction, overlay: Overlay, height: int, time_ms: int) -> Context:
        check_admissible(tx, self.genesis.chain_id, height, self._validity_heights_max)
        if tx.sender in self._refused_keys:
            raise Reject(Code.DEVELOPMENT_KEY)
        handler = self.registry.handler(tx.operation, tx.version)
        context = Context(overlay, handler.module, tx.sender, tx.id, height, time_ms)
        try:
            operation = handler.parse(tx.fields)
            if handler.rule.roles is not None and handler.rule.roles.isdisjoint(context.member.roles):
                raise Reject(Code.ROLE_REQUIRED, *sorted(handler.rule.roles))
            if handler.rule.check is not None:
                handler.rule.check(operation)
            handler.rule.apply(operation, context)
            _keep(overlay, context)
        except Reject as reject:
            if not 0 < int(reject.code) < 2**31:  # 0 would read as success
                raise Reject(Code.RULE_FAILED, handler.module, "refusal code") from reject
            raise
        except (MemoryError, Unreadable):
            raise
        except Exception as error:  # a rule's mistake costs its transaction, never the node
            raise Reject(Code.RULE_FAILED, handler.module, type(error).__name__) from error
        return context

    def _next_tip(
        self, state: Overlay, tip: Tip, proposal: Proposal, time_ms: int, receipts: Sequence[Receipt]
    ) -> dict[str, object]:
        height = tip.height + 1
        validators, parameters, pending = tip.validators, tip.parameters, members.next_validators(state)
        epoch_end = None if pending is None else pending.first_height - 1
        ends_epoch = epoch_end == height
        due = height - tip.checkpoint_height >= parameters.checkpoint_interval
        if ends_epoch and pending is not None:
            validators, parameters, epoch_end = pending, members.begin_epoch(state, pending), None
            state.keep()
        return {
            "height": height,
            "time_ms": time_ms,
            "results_hash": next_results_hash(tip.results_hash, height, receipts_root(receipts)),
            "checkpoint_height": height if due or proposal.seal or ends_epoch else tip.checkpoint_height,
            "validators": validators,
            "parameters": parameters,
            "epoch_end": epoch_end,
        }
