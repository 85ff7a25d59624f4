"""What a run is asked to do: the load, its shape, the conditions, and what does not go together.

Must not know: how a run is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bench.faults import FaultPlan
from bench.mix import MIXES, World
from bench.schedule import due_times, spacing_cycles
from ledger.genesis import Parameters
from node.cluster.links import DELAY_MS_MAX

STEP_SPACING_S = 1.5  # between two steps on one pack or record: three times the latency that is the target
PRESIGNED_S_MAX = 180.0  # of load; longer ones are signed as they go (bench/signing.py)
PRESIGNED_VALIDITY_HEIGHTS = 100_000  # what is signed beforehand must stay valid to the end of the run
TXS_PER_POST_MAX = 2_000  # the API's limit for one request
SIZE_BYTES_MIN, SIZE_BYTES_MAX = 400, 32 * 1024  # of padded transactions: with one reading more, and with 256
ACCOUNTS_MAX = 5_000_000  # about 150 bytes each in memory while the first state is made


@dataclass(frozen=True)
class Options:
    """See the command line's help. `share` of the limit takes the place of `rate` once the limit is known."""

    nodes: int = 4
    rate: float = 2_000.0
    share: float | None = None
    duration_s: float = 20.0
    warmup_s: float = 5.0
    clients: int = 2
    mix: str = "standard"
    poisson: bool = False
    seed: int = 1
    size_bytes: int = 0
    accounts: int = 0
    post_txs_max: int = TXS_PER_POST_MAX
    delay_ms: int | None = None  # None: nodes reach each other directly; 0: through the proxies, undelayed
    loss: float = 0.0
    fault: FaultPlan | None = None

    @property
    def load_s(self) -> float:
        return self.warmup_s + self.duration_s

    @property
    def is_long(self) -> bool:
        """Whether transactions are signed during the run, with the validity that a chain has by default."""
        return self.load_s > PRESIGNED_S_MAX

    @property
    def validity_heights(self) -> int:
        return Parameters().validity_heights_max if self.is_long else PRESIGNED_VALIDITY_HEIGHTS

    @property
    def proxies(self) -> bool:
        return self.delay_ms is not None or self.loss > 0

    @cached_property
    def times(self) -> list[float]:
        """When each transaction is due, in seconds from the start."""
        return due_times(self.rate, self.load_s, poisson=self.poisson, seed=self.seed)

    def world(self) -> World:
        spacing = spacing_cycles(self.rate, len(MIXES[self.mix]), STEP_SPACING_S)
        return World(self.seed, self.mix, len(self.times), spacing, self.size_bytes, self.accounts)

    def problems(self) -> Iterator[str]:
        """Why these cannot be run together; none for good ones."""
        if self.nodes != 1 and self.nodes < 4:
            yield "--nodes: 1, or 4 and more; 2 or 3 tolerate no fault"
        if not 1 <= self.clients <= 16:
            yield "--clients: 1 to 16"
        if not 1 <= self.post_txs_max <= TXS_PER_POST_MAX:
            yield f"--post-txs: 1 to {TXS_PER_POST_MAX}"
        if (self.mix == "sized") != (self.size_bytes > 0):
            yield "--size goes with --mix sized, and only with it: no other kind has a field that may grow"
        elif self.size_bytes and not SIZE_BYTES_MIN <= self.size_bytes <= SIZE_BYTES_MAX:
            yield f"--size: {SIZE_BYTES_MIN} to {SIZE_BYTES_MAX} bytes"
        if not 0 <= self.accounts <= ACCOUNTS_MAX:
            yield f"--accounts: 0 to {ACCOUNTS_MAX}"
        if self.delay_ms is not None and not 0 <= self.delay_ms <= DELAY_MS_MAX:
            yield f"--delay: 0 to {DELAY_MS_MAX} ms"
        if not 0 <= self.loss < 1:
            yield "--loss: a share from 0 to below 1"
        if self.fault is not None:
            if self.nodes < 4:
                yield "--fault: takes four nodes, of which one may fail"
            if self.fault.at_s >= self.duration_s:
                yield "--fault: at a second of the measured window"
