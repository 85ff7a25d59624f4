"""Sends business through a local cluster over HTTP: many stories at once, each step final before its next.

A client whose node does not answer, or not in time, sends the same bytes to another node: the transaction's id makes
that safe. So an accepted transaction is lost only if the chain loses it.

Must not know: what is sent, or how the cluster is doing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ledger.errors import Code, code_label
from ledger.fields import Operation
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node.api import tokens
from node.api.client import ApiError, Client, Unreachable
from node.cluster.plan import NodePlan
from node.workload import Cast, Outcome, Performer, Refused, Step
from node.workload.perform import Final

__all__ = ["ClusterTransport", "Load", "Sent", "Tally"]

STORIES_AT_ONCE = 48  # enough to fill blocks, few enough that one client process is not what is measured
WAIT_MS = 2_500  # for one answer; then another node is asked. Longer than a change of leaders on two busy cores
GIVE_UP_S = 45.0  # a restarted node is back long before; what takes longer is a fault
VALID_HEIGHTS = 600  # of the 1,000 that the chain allows: a node that still catches up takes it too
RETRY_S = 0.1
# The node has it, or may have it, or could not take it: the same bytes may be sent again.
_AGAIN = frozenset(
    {
        Code.NOT_FINAL_IN_TIME,
        Code.POOL_FULL,
        Code.NOT_ACCEPTING,
        Code.TOO_MANY_WAITERS,
        Code.UNREACHABLE,
        Code.VALIDITY_TOO_LONG,  # a node far behind, whose heights are not ours
    }
)


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction that became final. Times in seconds of the monotonic clock; `tries` counts submissions."""

    tx_id: bytes
    operation: str
    code: int
    height: int
    submitted_s: float
    final_s: float
    tries: int


class ClusterTransport:
    """The nodes of one cluster. An institution talks to its own node first, everyone else to one of them in turn."""

    def __init__(
        self,
        cast: Cast,
        nodes: Sequence[NodePlan],
        directory: Path,
        chain_id: bytes,
        on_height: Callable[[int], None] = lambda height: None,
    ) -> None:
        self.sent: list[Sent] = []
        self.refused_at_door: Counter[int] = Counter()
        self.height = 0
        self._cast, self._chain_id, self._on_height = cast, chain_id, on_height
        self._nodes = [node for node in nodes if node.validator]
        self._clients = [Client(node.api_url) for node in self._nodes]
        self._own: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            self._own.setdefault(node.institution, index)
        self._directory = directory
        self._turn = 0

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def submit(self, sender: str, operation: Operation) -> Final:
        """Until it is final. TimeoutError when that takes longer than anything should."""
        tx, at = self._sign(sender, operation), self._first(sender)
        started = time.monotonic()
        for attempt in range(1, 10_000):
            if time.monotonic() - started > GIVE_UP_S:
                break
            try:
                receipt = await self._clients[at].submit_wait(tx.wire, WAIT_MS)
            except Unreachable:
                pass
            except ApiError as error:
                if error.code not in _AGAIN:
                    self.refused_at_door[error.code] += 1
                    return Final(None, error.code, (error.detail,))
            else:
                height, code = int(receipt["height"]), int(receipt["code"])
                self.height = max(self.height, height)
                self._on_height(height)
                self.sent.append(Sent(tx.id, operation.NAME, code, height, started, time.monotonic(), attempt))
                return Final(tx.id, code, tuple(receipt["detail"]))
            at = (at + 1) % len(self._clients)
            await asyncio.sleep(RETRY_S)
        raise TimeoutError(f"{operation.NAME} of {sender} is not final after {GIVE_UP_S:g} s")

    def _sign(self, sender: str, operation: Operation) -> Transaction:
        return Transaction.create(
            self._cast.key(sender),
            self._chain_id,
            operation.NAME,
            operation.to_fields(),
            nonce=secrets.token_bytes(NONCE_SIZE_BYTES),
            valid_until=self.height + VALID_HEIGHTS,
            version=operation.VERSION,
        )

    def _first(self, sender: str) -> int:
        if sender in self._own:
            return self._own[sender]
        self._turn = (self._turn + 1) % len(self._clients)
        return self._turn

    def _vault(self, custodian: str) -> tuple[NodePlan, Client]:
        if custodian not in self._own:
            raise Refused(f"{custodian} runs no node here")
        index = self._own[custodian]
        return self._nodes[index], self._clients[index]

    def vault_keys(self, custodian: str) -> tuple[bytes, ...]:
        return (bytes.fromhex(self._vault(custodian)[0].key),)

    async def keep(self, custodian: str, sealed: bytes) -> None:
        node, client = self._vault(custodian)
        token = tokens.load(self._directory / node.name)
        await self._until_there(lambda: client.vault_put(sealed, token))

    async def release(self, custodian: str, commitment: bytes, access: bytes) -> bytes:
        _, client = self._vault(custodian)
        try:
            return await self._until_there(lambda: client.vault_get(commitment, access))
        except ApiError as error:
            raise Refused(str(error)) from None

    async def _until_there(self, call: Callable[[], Awaitable[T]]) -> T:
        """A vault is its custodian's alone: while that node is down, one waits for it."""
        started = time.monotonic()
        while True:
            try:
                return await call()
            except (Unreachable, ApiError) as error:
                not_yet = isinstance(error, Unreachable) or error.code in (Code.NOT_FOUND, *_AGAIN)
                if not not_yet or time.monotonic() - started > GIVE_UP_S:
                    raise
            await asyncio.sleep(RETRY_S)


@dataclass(slots=True)
class Tally:
    """What has happened so far. `wrong`: steps whose outcome was not the expected one, told in short."""

    steps: int
    done: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    refused_at_gateway: list[tuple[str, Outcome]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Load:
    """Carries out a stream of steps. `tally` may be read at any time; `reached` is set once a share is done, or all."""

    def __init__(
        self, cast: Cast, transport: ClusterTransport, steps: Sequence[Step], *, reached_at: float = 1.0
    ) -> None:
        self.tally = Tally(len(steps))
        self.reached = asyncio.Event()
        self._reached_at = reached_at * len(steps)
        self.transport = transport
        self._performer = Performer(cast, transport)
        self._stories: dict[int, list[Step]] = defaultdict(list)
        for step in steps:
            self._stories[step.story].append(step)

    async def run(self) -> None:
        await self._story(self._stories.pop(0, []))
        slots = asyncio.Semaphore(STORIES_AT_ONCE)

        async def with_slot(story: list[Step]) -> None:
            async with slots:
                await self._story(story)

        async with asyncio.TaskGroup() as group:
            for story in self._stories.values():
                group.create_task(with_slot(story))
        self.reached.set()  # also where failed stories kept the share from being reached

    async def _story(self, story: list[Step]) -> None:
        for step in story:
            try:
                outcome = await self._performer.perform(step)
            except (TimeoutError, Unreachable, ApiError) as error:
                self.tally.wrong.append(f"{step.label} by {step.sender}: {error}")
                return
            self._count(step, outcome)

    def _count(self, step: Step, outcome: Outcome) -> None:
        tally = self.tally
        tally.done += 1
        if tally.done >= self._reached_at:
            self.reached.set()
        tally.labels[step.label] += 1
        if outcome.code and not outcome.transactions:
            tally.refused_at_gateway.append((step.label, outcome))
        if step.expected is not None and outcome.code != step.expected:
            expected, found = code_label(step.expected), code_label(outcome.code)
            tally.wrong.append(f"{step.label} by {step.sender}: expected {expected}, got {found} {outcome.detail}")
