"""Which stage of a transaction's way a sampled stack belongs to, and the account that the samples make.

A stack is read from its innermost frame outwards; the first frame that a rule below names decides. Helpers that all
stages use (codec, hashes, signatures, the standard library) are named by no rule, so that their time goes to whoever
called them: a signature check under `Driver.check_signatures` is `verify`, one of a vote is `consensus`.

A thread that waits in the kernel (for events, for work, for the disk) and has just become ready looks as if it ran
until it gets a core. Stacks that end in such a call are therefore `waiting` and belong to no stage; what the call
itself costs goes to all stages alike.

The stages are those of the main thread, on which everything but waiting and writing happens. Other threads, the store's
native one included, have one line for what the kernel counted for them; a flame graph shows their stacks.

Must not know: how samples are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Stack = tuple[tuple[str, str], ...]  # (function, file), outermost first

DECODE, VERIFY, POOL, CONSENSUS, EXECUTE = "decode", "verify", "pool", "consensus", "execute"
STATE_TREE, STORAGE, HTTP, NETWORK = "state tree", "storage", "HTTP", "network and TLS"
LOOP, OTHER, WAITING, OTHER_THREADS = "event loop", "other", "waiting", "other threads"
STAGES = (DECODE, VERIFY, POOL, CONSENSUS, EXECUTE, STATE_TREE, STORAGE, HTTP, NETWORK, LOOP, OTHER)


@dataclass(frozen=True, slots=True)
class Rule:
    """Frames of files that begin with `file`, in `functions` if any are named, belong to `stage`."""

    stage: str
    file: str
    functions: frozenset[str] = frozenset()

    def names(self, function: str, file: str) -> bool:
        return file.startswith(self.file) and (not self.functions or function in self.functions)


def _rule(stage: str, file: str, *functions: str) -> Rule:
    return Rule(stage, file, frozenset(functions))


BEGINNING = ("_bootstrap", "threading.py")  # the outermost frame of every thread but the main one
# Innermost frames that wait.
WAITS = frozenset(
    {
        ("select", "selectors.py"),
        ("_worker", "concurrent/futures/thread.py"),
        ("_write_group", "storage/wal.py"),  # fdatasync
    }
)
# In order: of two rules that name a frame, the first holds.
RULES = (
    _rule(DECODE, "ledger/transaction.py"),
    _rule(DECODE, "node/api/submit.py", "_wires_of_msgpack"),
    _rule(VERIFY, "node/driver.py", "check_signatures"),
    _rule(POOL, "p2p/batches.py"),
    _rule(POOL, "p2p/allowance.py"),
    _rule(POOL, "ledger/execution.py", "check"),  # at the door: replay window, validity, the operation's fields
    _rule(POOL, "node/desk.py", "submit", "_admit", "_refusal", "lag"),
    _rule(POOL, "node/replica.py", "submit", "take", "_cut", "_spread", "_on_batch", "_on_batch_checked", "_fetch"),
    # Reading entries is the work of who asks for them, which is nearly always a rule.
    _rule(EXECUTE, "storage/statetree.py", "get", "get_bytes", "get_old", "_entry", "_encoded", "decode_record"),
    _rule(STATE_TREE, "storage/statetree.py"),
    _rule(STORAGE, "storage/"),
    _rule(EXECUTE, "ledger/execution.py"),
    _rule(EXECUTE, "ledger/modules/"),
    _rule(EXECUTE, "ledger/rules.py"),
    _rule(EXECUTE, "ledger/state.py"),
    _rule(EXECUTE, "ledger/fields.py"),
    _rule(EXECUTE, "ledger/gs1.py"),
    _rule(EXECUTE, "ledger/replay.py"),
    _rule(CONSENSUS, "consensus/"),
    _rule(CONSENSUS, "ledger/block.py"),
    _rule(CONSENSUS, "node/replica.py"),
    _rule(CONSENSUS, "node/driver.py"),
    _rule(CONSENSUS, "node/history.py"),
    _rule(HTTP, "node/api/"),
    _rule(HTTP, "node/desk.py"),
    _rule(NETWORK, "p2p/"),
    _rule(NETWORK, "aiohttp/_websocket/"),
    _rule(NETWORK, "aiohttp/client"),
    _rule(NETWORK, "aiohttp/web_ws.py"),
    _rule(NETWORK, "aiohttp/http_websocket.py"),
    _rule(NETWORK, "asyncio/sslproto.py"),
    _rule(NETWORK, "ssl.py"),
    _rule(HTTP, "aiohttp/"),
    # Sockets: TLS reads into a buffer of its own, our HTTP server is given bytes.
    _rule(NETWORK, "asyncio/selector_events.py", "_read_ready__get_buffer"),
    _rule(HTTP, "asyncio/selector_events.py", "_read_ready__data_received"),
    _rule(LOOP, "asyncio/base_events.py"),
    _rule(LOOP, "asyncio/events.py"),
    _rule(LOOP, "asyncio/selector_events.py", "_run_once", "_process_events"),
    _rule(LOOP, "asyncio/runners.py"),
    _rule(LOOP, "selectors.py"),
    _rule(LOOP, "concurrent/futures/"),
    _rule(LOOP, "threading.py"),
)  # fmt: skip


def parse(lines: Iterable[str]) -> dict[Stack, int]:
    """Collapsed stacks, `function (file);function (file) count` a line, as samples by stack."""
    found: dict[Stack, int] = {}
    for line in lines:
        frames, _, count = line.strip().rpartition(" ")
        if frames:
            stack = tuple(map(_frame, frames.split(";")))
            found[stack] = found.get(stack, 0) + int(count)
    return found


def to_lines(stacks: Mapping[Stack, int]) -> str:
    """The reverse of `parse`."""
    return "".join(
        ";".join(f"{function} ({file})" for function, file in stack) + f" {count}\n" for stack, count in stacks.items()
    )


def _frame(text: str) -> tuple[str, str]:
    """Of `Class.function (file)` the class is left out: the file says enough."""
    function, _, file = text.rpartition(" (")
    return (function.rpartition(".")[2], file.removesuffix(")")) if function else (text, "")


def stage_of(stack: Stack) -> str:
    if stack and stack[-1] in WAITS:
        return WAITING
    for function, file in reversed(stack):
        if function.startswith("<"):  # a comprehension or lambda belongs to the function that it stands in
            continue
        for rule in RULES:
            if rule.names(function, file):
                return rule.stage
    return OTHER


@dataclass(frozen=True, slots=True)
class Account:
    """Where one node's time went. Seconds of the window; microseconds for each transaction that it executed.

    `processor_s` is of all threads, `main_s` of the main one, whose `samples` these are. `waiting_s` is time in which
    it could have run and another thread or process had the core; `idle_s` is the rest, in which it had nothing to do.
    """

    window_s: float
    txs: int
    processor_s: float
    main_s: float
    waiting_s: float
    samples: Mapping[str, int]

    @property
    def idle_s(self) -> float:
        return max(0.0, self.window_s - self.main_s - self.waiting_s)

    def seconds(self, stage: str) -> float:
        """The stage's share of the samples, of the processor time that the kernel counted for the main thread; or what
        it counted for the other threads.
        """
        if stage == OTHER_THREADS:
            return max(0.0, self.processor_s - self.main_s)
        return self.samples.get(stage, 0) / max(sum(self.samples.values()), 1) * self.main_s

    def us_per_tx(self, stage: str) -> float:
        return self.seconds(stage) / max(self.txs, 1) * 1e6


def account(
    stacks: Mapping[Stack, int], window_s: float, txs: int, processor_s: float, main_s: float, waiting_s: float
) -> Account:
    samples = dict.fromkeys(STAGES, 0)
    for stack, count in stacks.items():
        stage = stage_of(stack)
        if stage != WAITING and stack[:1] != (BEGINNING,):
            samples[stage] += count
    return Account(window_s, txs, processor_s, main_s, waiting_s, samples)


def to_text(found: Account) -> Iterator[str]:
    """The account as a table, the largest first."""
    per_tx = 1e6 / max(found.txs, 1)
    yield f"{'stage':<18}{'us per tx and node':>20}{'of the processor time':>24}"
    for stage in sorted((*STAGES, OTHER_THREADS), key=found.seconds, reverse=True):
        share = found.seconds(stage) / max(found.processor_s, 1e-9)
        yield f"{stage:<18}{found.us_per_tx(stage):>20.1f}{share:>24.1%}"
    yield f"{'in all':<18}{found.processor_s * per_tx:>20.1f}{found.processor_s / found.window_s:>16.1%} of a core"
    for name, seconds in (("waiting for a core", found.waiting_s), ("idle", found.idle_s)):
        yield f"{name:<18}{seconds * per_tx:>20.1f}{seconds / found.window_s:>16.1%} of the time"
