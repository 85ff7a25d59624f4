"""Faults planted in the product's code, to see whether the simulator finds them: one that survives is a hole in it.

A mutant replaces a piece of one function's source, which must be there exactly once: when the code changes, the mutant
fails loudly instead of testing nothing. `mutate.py` runs them; docs/simulation.md has the table.

Must not know: seeds, plans, checkers.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import FunctionType
from typing import Any

from consensus import contradiction, newview
from consensus.checkpoints import Checkpoints
from consensus.engine import Engine
from consensus.ordering import Ordering
from consensus.patience import Patience
from consensus.repair import Repair
from consensus.restart import Restart
from consensus.slots import Slot
from consensus.state import State
from consensus.sync import BlockSync
from consensus.verify import Verifier
from consensus.views import Views
from ledger import block, validators
from ledger.execution import Executor
from ledger.modules import members, payments
from ledger.replay import ReplayWindow
from node.history import History
from node.replica import Replica
from p2p.batches import BatchPool
from storage.chain import ChainStore
from tests.simulation import disk

WAL = disk._wal  # the simulated disks run a copy of storage/wal.py, on files in memory


@dataclass(frozen=True, slots=True)
class Change:
    """In `owner.name` (a class's or module's function), `old` becomes `new`."""

    owner: Any
    name: str
    old: str
    new: str

    def function(self) -> FunctionType:
        found = vars(self.owner)[self.name]
        match found:
            case property():
                found = found.fget
            case cached_property():
                found = found.func
            case classmethod() | staticmethod():
                found = found.__func__
        assert isinstance(found, FunctionType)
        return found

    def planted(self) -> FunctionType:
        """The function with the change made, compiled where the original stands."""
        function = self.function()
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{function.__qualname__} no longer holds {self.old!r} once"
        source = "\n".join(line for line in source.replace(self.old, self.new).split("\n") if not line.startswith("@"))
        made: dict[str, Any] = {}
        flags = __future__.annotations.compiler_flag
        exec(compile(source, inspect.getfile(function), "exec", flags), function.__globals__, made)
        result = made[function.__name__]
        assert isinstance(result, FunctionType)
        return result


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: where it is and what is wrong with the code then."""

    room: str
    name: str
    changes: tuple[Change, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The product is wrong inside. Whoever holds the function already runs the changed code, too."""
        with ExitStack() as stack:
            for change in self.changes:
                function, code = change.function(), change.planted().__code__
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = code
            yield


def _one(room: str, name: str, owner: Any, function: str, old: str, new: str) -> Mutant:
    return Mutant(room, name, (Change(owner, function, old, new),))


_CHECKED_IN_NEW_VIEW = "if not all(self._by_member(claim.member, claim, validators) for claim in message.claims):"
_NO_CHECK = "from consensus.events import Verified; verified = Verified(certificate)"

MUTANTS = (
    # Agreement
    _one("votes", "a quorum is one too small", validators, "quorum", "+ 2) // 2", "+ 2) // 2 - 1"),
    _one("votes", "a quorum is 2f + 1, whatever n", validators, "quorum", "(n + faulty_max(n) + 2) // 2",
         "2 * faulty_max(n) + 1"),
    _one("votes", "signatures do not cover the phase", block, "vote_statement", "int(phase)", "0"),
    _one("votes", "signatures do not cover the height", block, "vote_statement", "view, height, int", "view, 0, int"),
    _one("votes", "signatures do not cover the view", block, "vote_statement", "epoch, view,", "epoch, 0,"),
    Mutant("votes", "signers need not be distinct", (
        Change(block, "is_quorum", "and all(low < high for low, high in pairwise(members))", ""),
        Change(block, "signatures_from_value", "if last < index <", "if index <"),
    )),
    _one("votes", "no upper end of the log", State, "in_log", "< height <= top", "< height"),
    _one("votes", "a new view does not bind its leader", Ordering, "_refusal", "required is not None and required.",
         "False and required."),
    _one("votes", "prepared without holding the batches", Replica, "_validate", "if missing and fits:", "if False:"),
    _one("votes", "a proposal's time is not checked", Replica, "_carry_out", "if check_time and drift_ms",
         "if False and 0"),
    # Leaving views
    _one("views", "a lock is dropped when a view is left", Slot, "enter_view", "self.proposal = None",
         "self.proposal = self.prepared = None"),
    _one("views", "the lock of the lowest view is chosen", newview, "_highest", "digest) > locks", "digest) < locks"),
    _one("views", "gaps between locks are closed up", newview, "choose",
         "proposals.get(height) or Proposal.null(height) for height in range(base + 1, top + 1)",
         "proposals[height] for height in sorted(proposals)"),
    _one("views", "the proof of a lock is not checked", Verifier, "_prepared",
         "is_lean and self.certificate(certificate, validators) is not None", "True"),
    _one("views", "claims in a new view are not checked", Verifier, "_new_view", _CHECKED_IN_NEW_VIEW, "if False:"),
    _one("views", "one member's view change is followed", Views, "on_view_change", "> state.validators.f:", "> 0:"),
    _one("views", "f + 1 suspicions end a view", Views, "on_suspect", ">= quorum", "> state.validators.f"),
    Mutant("views", "patience has no cap", (
        Change(Patience, "limit_ms", "min(self.base_ms << self._level, self.cap_ms)", "self.base_ms << self._level"),
        Change(Patience, "failed", "if not self.is_capped:", "if True:"),
    )),
    _one("views", "patience never grows", Patience, "failed", "self._level += 1", "pass"),
    _one("views", "suspicions and view changes are said once", Engine, "_on_timer", "self._views.repeat()", "pass"),
    _one("views", "who lags is not helped into the view", Repair, "on_status", "self._views.help_in(member)", "pass"),
    # Restart and write-ahead log
    _one("restart", "votes are sent before they are durable", State, "persist",
         "self.effects.append(Persist(self._token, height, record, then, vouches))",
         "self.effects.extend(then); self.effects.append(Persist(self._token, height, record, ()))"),
    _one("restart", "our votes are not taken back", Restart, "_restore_vote", "PrePrepare | Vote | Prepared):",
         "Prepared):"),
    _one("restart", "our locks are not taken back", Restart, "_restore_vote", "PrePrepare | Vote | Prepared):",
         "PrePrepare | Vote):"),
    _one("restart", "the view is not taken back", Views, "restore", "match record:", "match None:"),
    _one("restart", "votes of an epoch not yet reached are forgotten", Restart, "restore",
         "tuple(record for record in known if _epoch_of(record) > epoch)", "()"),
    _one("restart", "executed transactions are forgotten", ChainStore, "resume",
         "executor.accept(transactions, height)", "pass"),
    _one("restart", "blocks above the last root are not executed again", ChainStore, "resume",
         "executed = self._execute_again(executor, executed)",
         "executed, self._state_height = self._tip, self._tip.height"),
    _one("write-ahead log", "durable before the sync", WAL.WriteAheadLog, "_write_group",
         "os.fdatasync(self._descriptor)", "pass"),
    _one("write-ahead log", "a new segment's name is not synced", WAL.WriteAheadLog, "_make_segment",
         "_sync_folder(self.folder)", "pass"),
    _one("write-ahead log", "a torn end is not cut off", WAL.WriteAheadLog, "_load_segment",
         "_cut(path, segment.size_bytes)", "segment.size_bytes = len(data)"),
    _one("write-ahead log", "segments are dropped too early", WAL.WriteAheadLog, "_obsolete",
         "self._segments[count].tag_max < tag:", "self._segments[count].tag_max < tag + 16:"),
    _one("write-ahead log", "the view is lost as the log is shortened", Replica, "_on_stable", "if records:",
         "if False:"),
    _one("write-ahead log", "the view is lost as the log is shortened before it was on disk", Views, "lasting_records",
         "self._entry", "self._entry if self.new_view is not None or self.own_view_change is not None else ()"),
    _one("write-ahead log", "batches voted for are not logged", Replica, "_validate",
         "if self._logged.get", "if False and self._logged.get"),
    # Batches
    _one("fetching", "a batch that was ordered before is never taken again", BatchPool, "admit",
         "if digest in self._held or", "if digest in self._ordered or digest in self._held or"),
    _one("votes", "heights below the new view are voted on", Ordering, "_refusal", "self._views.is_below(slot.height)",
         "False"),
    _one("votes", "checkpoints are signed before the store is on disk", Replica, "_carry_out", "if effect.vouches:",
         "if False:"),
    _one("fetching", "what was vouched for is not kept", Replica, "_vouch", "if height <= self.store.tip.height or",
         "if True or"),
    _one("fetching", "always the same member is asked", BatchPool, "plan_fetches",
         "[peer for peer in members if peer not in wanted.asked]", "list(members)"),
    _one("fetching", "a missing batch is asked for once", BatchPool, "plan_fetches",
         "now_ms - wanted.asked_at_ms < FETCH_TIMEOUT_MS", "wanted.asked"),
    _one("fetching", "batches are spread once", BatchPool, "to_spread_again", "[held.batch for held in due]", "[]"),
    _one("fetching", "signatures in batches are not checked", Replica, "_on_batch_checked", "if not valid:",
         "if False:"),
    # Catching up
    _one("catching up", "a block's certificate is not checked", Replica, "_check_block",
         "verified = self.verifier.certificate(certificate, self.engine.validators)", _NO_CHECK),
    _one("catching up", "another block's certificate passes", Replica, "_check_block",
         "or certificate.digest != proposal.digest", ""),
    _one("catching up", "a block's batches are not compared", Replica, "_check_block",
         "or not block.batches_match()", ""),
    _one("catching up", "a checkpoint's certificate is not checked", Replica, "_on_checkpoint",
         "verified = self.verifier.certificate(certificate, validators)", _NO_CHECK),
    _one("catching up", "f + 1 make a checkpoint", Checkpoints, "record", ">= self.validators.quorum:",
         "> self.validators.f:"),
    _one("catching up", "who does not answer is waited for", BlockSync, "plan",
         "waited_ms >= REQUEST_TIMEOUT_MS", "False"),
    _one("catching up", "the last block is not fetched", BlockSync, "plan", "self.target - height",
         "self.target - height - 1"),
    # Membership and evidence
    _one("membership", "a removed member goes on signing", State, "enter_epoch",
         "else validators.index(self.config.key)", "else validators.index(self.config.key) or 0"),
    _one("membership", "the next set takes over one height early", Executor, "_next_tip", "epoch_end == height",
         "epoch_end == height + 1"),
    _one("membership", "a change takes effect while heights are in flight", members, "_schedule",
         'ctx.height + Parameters.from_value(ctx.get("parameters")).log_window + 1', "ctx.height + 1"),
    _one("membership", "no empty blocks carry a change to its height", Ordering, "next_proposal",
         "if state.epoch_end is not None and state.executed < state.epoch_end:", "if False:"),
    _one("membership", "an epoch's closing checkpoint is forgotten", State, "enter_epoch",
         "self.checkpoints if self.checkpoints.stable < self.executed else None", "None"),
    _one("membership", "an epoch's closing checkpoint is forgotten at a restart", Replica, "__init__",
         "former = None if closed else", "former = None if True else"),
    _one("membership", "nobody asks for what closed earlier epochs", History, "plan",
         "lacking is None or", "True or"),
    _one("membership", "what closes an epoch is not checked", History, "take",
         "not closes or self._verifier.certificate(certificate, validators) is None", "not closes"),
    _one("evidence", "messages of two places are held against their sender", contradiction, "contradiction",
         "first[:4] != second[:4]", "first[:3] != second[:3]"),
    _one("evidence", "who repeats himself is accused", contradiction, "contradiction",
         "first[4].content == second[4].content", "False"),
    # Execution
    _one("execution", "a transaction is executed as often as it is ordered", Executor, "execute",
         "if replay_key in self.replay or replay_key in fresh:", "if False:"),
    _one("execution", "of a nonce used twice the first time counts", ReplayWindow, "add",
         "self._keys.get(key, -1) < valid_until", "key not in self._keys"),
    _one("execution", "block time runs backwards", Executor, "execute", "max(tip.time_ms, proposal.time_ms)",
         "proposal.time_ms"),
    _one("execution", "a payment makes money", payments, "_credit", "value=balance + amount",
         "value=balance + amount + 1"),
)  # fmt: skip


def named(name: str) -> Mutant:
    """The one of that name."""
    return next(one for one in MUTANTS if one.name == name)
