"""The standard mix: shares, senders, sizes, and that a run's transactions succeed in order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bench.mix import CURRENCY, FAMILY, MIXES, SENDERS, SERIALS_PER_TX, World
from bench.signing import sign
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
    return World(7, mix, count, SPACING, size_bytes=1_024 if mix == "sized" else 0)


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


def test_the_insurer_can_pay_for_an_hour() -> None:
    confirmed = [call.fields for call in map(a_world("payments").operation, range(COUNT)) if call.kind == "confirm"]
    an_hour = 3_600 * 10_000 // COUNT  # times as much
    listed = a_world().genesis_modules(development_modules())["payments"]["balances"]
    held = {(item["owner"], item["currency"]): item["amount"] for item in listed}
    assert held["insurer", CURRENCY] > an_hour * sum(int(str(amount)) for _, _, _, amount, _ in confirmed) > 10**10


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
    count = 100 if mix == "bulk" else 600
    txs = [sign(world, world.keys, genesis.chain_id, i, VALID_UNTIL) for i in range(count)]
    for group in (set_up, *(txs[first : first + 100] for first in range(0, count, 100))):
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
    low, high = {"bulk": (5_000, 20_000), "sized": (1_020, 1_028)}.get(mix, (200, 320))
    assert low < sum(sizes) / len(sizes) < high


@pytest.mark.parametrize("size_bytes", [512, 1_024, 4_096])
def test_a_transaction_is_padded_to_the_size_asked_for(size_bytes: int) -> None:
    world = World(1, "sized", 2_000, SPACING, size_bytes=size_bytes)
    sizes = {len(sign(world, world.keys, bytes([1]) + bytes(32), i, VALID_UNTIL).wire) for i in range(0, 2_000, 97)}
    assert all(abs(size - size_bytes) <= 8 for size in sizes)


def test_bulk_events_are_about_five_hundred_serials_of_a_lot_that_was_commissioned_before() -> None:
    world = World(1, "bulk", 400, 5)
    calls = [world.operation(i) for i in range(400)]
    assert {call.serials for call in calls} == {SERIALS_PER_TX}
    made = {f"01/{world.gtin}/21/{sn}" for call in calls if call.kind == "commission lot" for sn in call.fields[5]}
    assert all(made.issuperset(call.fields[0]) for call in calls if call.kind != "commission lot")


def test_transfers_go_to_the_accounts_of_a_large_state() -> None:
    world = World(1, "payments", 300, SPACING, accounts=50)
    owners = {world.account(number).hex() for number in range(50)}
    assert {call.fields[1] for call in map(world.operation, range(300)) if call.kind == "transfer"} <= owners
