"""Parameters on the chain: voted like a change of validators, checked alike everywhere, in force from an epoch on."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import CodecError, Value
from ledger.errors import Code
from ledger.execution import Tip
from ledger.genesis import GOVERNED_PARAMETERS, LOG_WINDOW_MAX, Parameters
from ledger.modules.members import ProposeParameters, next_parameters, next_validators, parameters_in_force
from tests.ledger.chain import Chain
from tests.ledger.test_members import CLINIC, QUICK, approve, change_set, is_open, new_chain, propose

KNOWN = Parameters()


def change(**values: int) -> ProposeParameters:
    return ProposeParameters(tuple(values.items()))


def enact(chain: Chain, **values: int) -> None:
    assert approve(chain, propose(chain, change(**values)), 1, 2) == [Code.OK, Code.OK]


@pytest.fixture
def chain() -> Chain:
    return new_chain(parameters=QUICK)


def test_parameters_take_effect_at_the_epochs_end_and_not_before(chain: Chain) -> None:
    """Trap 46."""
    enact(chain, checkpoint_interval=2, log_window=4)
    pending, following = next_validators(chain), next_parameters(chain)
    assert pending is not None
    assert following == replace(QUICK, checkpoint_interval=2, log_window=4)
    assert pending.keys == chain.tip.validators.keys
    while chain.height < pending.first_height - 1:
        assert chain.tip.parameters == parameters_in_force(chain) == QUICK
        last = chain.execute(())
    assert last.is_checkpoint
    assert chain.tip.parameters == parameters_in_force(chain) == following
    assert chain.tip.validators.epoch == 1
    assert next_parameters(chain) is None
    assert [chain.execute(()).is_checkpoint for _ in range(4)] == [False, True, False, True]


def test_the_next_change_counts_heights_by_the_new_log_window(chain: Chain) -> None:
    enact(chain, log_window=5)
    chain.advance(QUICK.log_window)
    enact(chain, window=2)
    assert chain.tip.epoch_end == chain.height + 5


def test_one_change_of_validators_or_parameters_is_pending_at_a_time(chain: Chain) -> None:
    other = propose(chain, change_set(chain, [CLINIC]))
    enact(chain, log_window=5)
    assert approve(chain, other, 1, 2) == [Code.OK, Code.CHANGE_PENDING]
    chain.advance(QUICK.log_window)
    assert approve(chain, other, 2) == [Code.OK]
    chain.advance(5)
    assert chain.tip.validators.n == 5
    assert chain.tip.parameters.log_window == 5


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"block_interval_ms": KNOWN.view_timeout_ms // 4 + 1}, "block_interval_ms"),
        ({"view_timeout_ms": KNOWN.view_timeout_ms_max + 1}, "view_timeout_ms_max"),
        ({"view_timeout_ms_max": 3_600_001}, "view_timeout_ms_max"),
        ({"window": 28}, "log_window"),
        ({"log_window": LOG_WINDOW_MAX + 1}, "log_window"),
        ({"batch_txs_max": KNOWN.block_txs_max + 1}, "batch_txs_max"),
        ({"block_txs_max": 4_001}, "block_txs_max"),
        ({"clock_drift_ms_max": 1}, "clock_drift_ms_max"),
        ({"window": KNOWN.window}, "nothing changes"),
    ],
)
def test_what_does_not_fit_together_is_refused_when_proposed(values: dict[str, int], named: str) -> None:
    """Traps 13 and 46."""
    chain = new_chain()
    receipt = chain.send(chain.validators[0], change(**values))
    assert receipt.code == Code.BAD_PARAMETERS
    assert named in str(receipt.detail[0])


def test_names_are_known_and_given_once(chain: Chain) -> None:
    receipts = chain.block(
        (chain.validators[0], ProposeParameters((("window", 1), ("window", 2)))),
        (chain.validators[0], ProposeParameters((("windw", 1),))),
        (chain.validators[0], ProposeParameters((("validity_heights_max", 5_000),))),
        (chain.validators[0], ProposeParameters((("window", 2**31),))),
        (chain.validators[0], ProposeParameters((("window", True),))),
        (chain.validators[0], ProposeParameters(())),
        (CLINIC, change(window=1)),
    )
    expected = [Code.BAD_PARAMETERS, *[Code.BAD_FIELD] * 5, Code.NOT_A_VALIDATOR]
    assert [receipt.code for receipt in receipts] == expected


def test_two_changes_that_fit_alone_and_not_together_are_not_both_enacted(chain: Chain) -> None:
    """Trap 46. Checked again, against what is in force, by the last vote."""
    longer = propose(chain, change(block_interval_ms=QUICK.view_timeout_ms // 4))
    enact(chain, view_timeout_ms=QUICK.view_timeout_ms - 4)
    chain.advance(QUICK.log_window)
    assert approve(chain, longer, 1, 2) == [Code.OK, Code.BAD_PARAMETERS]
    assert is_open(chain, longer)
    assert next_parameters(chain) is None
    chain.advance(QUICK.log_window)
    assert chain.tip.parameters.problems() == []


def test_the_tip_keeps_its_parameters_through_the_store(chain: Chain) -> None:
    enact(chain, window=2, log_window=6)
    chain.advance(QUICK.log_window)
    assert Tip.from_value(chain.tip.to_value()) == chain.tip
    assert chain.tip.parameters.window == 2


def test_all_but_the_replay_window_is_governed() -> None:
    assert {*asdict(KNOWN)} - {*GOVERNED_PARAMETERS} == {"validity_heights_max"}


ENCODED = KNOWN.to_value()


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        (),
        ENCODED[1:],
        (*ENCODED, ("more", 1)),
        (ENCODED[1], ENCODED[0], *ENCODED[2:]),
        (*ENCODED, ENCODED[0]),
        (("window", True), *ENCODED[1:]),
        (("window", 0), *ENCODED[1:]),
        (("window", 100), *ENCODED[1:]),
        ((5, 5), *ENCODED[1:]),
    ],
)
def test_stored_parameters_that_do_not_hold_are_corruption(value: Value) -> None:
    with pytest.raises(CodecError):
        Parameters.from_value(value)


@given(st.sampled_from(GOVERNED_PARAMETERS), st.integers(1, 2**31 - 1))
def test_what_fits_together_survives_its_encoding(name: str, value: int) -> None:
    parameters = KNOWN.changed([(name, value)])
    if not parameters.problems():
        assert Parameters.from_value(parameters.to_value()) == parameters
