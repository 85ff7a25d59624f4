"""The standard mix: shares, senders, sizes, and that a run's transactions succeed in order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench.client import sign
from bench.mix import FAMILY, MIXES, SENDERS, World
from ledger.block import Proposal
from ledger.execution import Executor
from ledger.genesis import Genesis, Parameters
from ledger.modules import drugs, members, payments, records
from ledger.rules import Registry
from ledger.state import Overlay
from ledger.transaction import Batch, Transaction
from node.cluster.plan import development_modules
from tests.ledger.chain import VALIDATORS

COUNT = 2_000
SPACING = 20
VALID_UNTIL = 90_000


def a_world(mix: str = "standard", count: int = COUNT) -> World:
    return World(7, mix, count, SPACING)


class _State:
    def __init__(self) -> None:
        self.values: dict[bytes, object] = {}

    def get(self, key: bytes) -> object:
        return self.values.get(key)


def test_the_standard_mix_has_its_shares() -> None:
    world = a_world()
    calls = [world.operation(i) for i in range(COUNT)]
    late = Counter(call.kind for call in calls[10 * 3 * SPACING :])
    families = Counter(FAMILY[call.kind] for call in calls)
    assert families == {"drugs": COUNT * 4 // 10, "records": COUNT * 3 // 10, "payments": COUNT * 3 // 10}
    assert set(late.values()) == {COUNT // 10 - 3 * SPACING}


def test_a_run_has_a_thousand_senders_and_uses_most_of_them() -> None:
    world = World(1, "standard", 20_000, 300)
    assert len(world.keys) == SENDERS == 1_000
    assert len({world.operation(i).signer for i in range(20_000)}) > 950


def test_operations_depend_on_the_seed_and_number_alone() -> None:
    one, same, other = a_world(), a_world(), replace(a_world(), seed=8)
    assert [one.operation(i) for i in reversed(range(50))] == [same.operation(i) for i in range(50)][::-1]
    assert one.nonce(0) != other.nonce(0)
    assert one.key("maker/0").public != other.key("maker/0").public


def test_steps_of_one_chain_are_the_spacing_apart() -> None:
    world = a_world()
    touched: dict[object, list[int]] = {}
    for i in range(COUNT):
        call = world.operation(i)
        if call.kind in ("ship", "receive", "observe", "dispense"):
            touched.setdefault(call.fields[0], []).append(i // 10)
    shipped = world.operation(0).fields[0]
    assert touched[shipped] == [0, SPACING, 2 * SPACING, 3 * SPACING]


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_every_transaction_of_a_run_is_accepted_in_order(mix: str) -> None:
    world = a_world(mix, 600)
    genesis = Genesis(
        "bench",
        1_750_000_000_000,
        tuple(key.public for key in VALIDATORS),
        world.genesis_modules(development_modules()),
        development=True,
        parameters=replace(Parameters(), validity_heights_max=100_000),
    )
    executor = Executor(genesis, Registry((members.MODULE, records.MODULE, drugs.MODULE, payments.MODULE)))
    state = _State()
    changes, tip = executor.begin()
    state.values.update((key, value) for key, (value, _) in changes.items())
    set_up = [
        Transaction.create(
            world.keys[call.signer],
            genesis.chain_id,
            call.operation,
            call.fields,
            nonce=world.name("set-up nonce", number)[1:17],
            valid_until=VALID_UNTIL,
        )
        for number, call in enumerate(world.setup())
    ]
    txs = [sign(world, world.keys, genesis.chain_id, i, VALID_UNTIL) for i in range(600)]
    for group in (set_up, *(txs[first : first + 100] for first in range(0, 600, 100))):
        if not group:
            continue
        batch = Batch(tuple(tx.wire for tx in group))
        proposal = Proposal(tip.height + 1, genesis.time_ms + 1, (batch.digest,), False)
        result = executor.execute(Overlay(state), tip, proposal, [batch])  # type: ignore[arg-type]
        executor.accept(result.transactions, proposal.height)
        state.values.update((key, value) for key, (value, _) in result.changes.items())
        tip = result.tip
        assert [receipt for receipt in result.receipts if receipt.code] == []
    sizes = [len(tx.wire) for tx in txs]
    assert 200 < sum(sizes) / len(sizes) < 320
