"""Execution of ordered blocks with a small module of its own: order, isolation, time, replay, determinism.

Run as a program, it prints what a fixed history of blocks leads to; the determinism test compares several runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Annotated, Any

import pytest

from ledger.block import RECEIPT_SIZE_BYTES_MAX, Header, Proposal, Receipt, next_results_hash, receipts_root
from ledger.codec import Value, encode
from ledger.crypto import hash_bytes
from ledger.errors import Code, CodecError, ConfigError, Reject, Unreadable
from ledger.execution import Executor, Tip
from ledger.fields import Integer, Operation, Text
from ledger.genesis import Parameters, development_key
from ledger.gs1 import sgtin
from ledger.merkle import EMPTY_ROOT
from ledger.modules import drugs, payments, records
from ledger.modules.drug_operations import Commission, Receive, Ship
from ledger.modules.members import ProposeValidators, Vote
from ledger.modules.parties import VALIDATORS, join_statement
from ledger.rules import INDEXES_PER_TX_MAX, WRITES_PER_TX_MAX, Context, Registry, Rule, RuleModule
from ledger.transaction import Batch, Transaction
from tests.ledger.chain import Chain, institution, key_pair

ALICE, BOB = key_pair("alice"), key_pair("bob")


class Word(Text):
    """A plug-in's own field type, with a mistake in it."""

    def check(self, value: Any, path: str) -> None:
        super().check(value, path)
        if value == "crash":
            raise KeyError(value)


@dataclass(frozen=True, slots=True)
class Say(Operation):
    """Appends a word to a list, says the time, or does what its word asks for."""

    NAME = "test.say"
    word: Annotated[str, Word(20)]
    count: Annotated[int, Integer(0, 100_000)] = 0


class Colour(StrEnum):
    RED = "red"


class Number(IntEnum):
    SEVEN = 7


def say(op: Say, ctx: Context) -> None:
    ctx.put("words", value=(*(ctx.get("words") or ()), op.word))
    ctx.put("time", value=(ctx.height, ctx.time_ms))
    ctx.index("word", op.word)
    match op.word:
        case "refuse":
            raise Reject(Code.UNKNOWN_RECORD, "a", 1, b"k")
        case "enum":
            raise Reject(Code.UNKNOWN_RECORD, Number.SEVEN, Colour.RED, True, b"k" * 500, "\ud800", "\n")
        case "raise":
            raise ZeroDivisionError
        case "float":
            ctx.put("bad", value=(1, 0.5))  # type: ignore[arg-type]
        case "huge":
            ctx.put("bad", value=2**64)
        case "object":
            ctx.put("bad", value=object())  # type: ignore[arg-type]
        case "index":
            ctx.index("word", 5)  # type: ignore[arg-type]
        case "recurse":
            say(op, ctx)
        case "writes":
            for number in range(op.count):
                ctx.put("many", number, value=number)
        case "bytes":
            for number in range(1_000):
                ctx.put("many", number, value=bytes(op.count))
        case "indexes":
            for number in range(op.count):
                ctx.index("many", str(number))


MODULE = RuleModule("test", 1, (Rule(Say, say, check=lambda op: None),))
QUICK = Parameters(window=1, checkpoint_interval=3, log_window=5, validity_heights_max=10)


def new_chain(**more: Any) -> Chain:
    return Chain([MODULE], {"test": {}}, **{"parameters": QUICK, **more})


@pytest.fixture
def chain() -> Chain:
    return new_chain()


def test_transactions_are_executed_in_the_order_of_batches_and_within_them(chain: Chain) -> None:
    """Trap 17."""
    words = [chain.transaction(ALICE, Say(word)) for word in "abcd"]
    batches = [Batch((words[2].wire, words[0].wire)), Batch((words[3].wire, words[1].wire))]
    for order, expected in ((batches, tuple("cadb")), (batches[::-1], tuple("dbca"))):
        proposal = Proposal(1, 1, tuple(batch.digest for batch in order))
        result = chain.executor.execute(chain, chain.tip, proposal, order)
        assert [receipt.tx_id for receipt in result.receipts] == [tx.id for batch in order for tx in batch.transactions]
        assert (expected, encode(expected)) in result.changes.values()
        assert [(key.decode(), position) for _, key, position in result.indexes] == list(
            zip(expected, range(4), strict=True)
        )


def test_execution_changes_nothing_but_its_result(chain: Chain) -> None:
    """Trap 22. A block executed again gives the same; only `accept` moves on."""
    tx = chain.transaction(ALICE, Say("a"))
    batch = Batch((tx.wire,))
    proposal = Proposal(1, 1, (batch.digest,))
    entries = dict(chain.entries)
    first = chain.executor.execute(chain, chain.tip, proposal, [batch])
    assert chain.executor.execute(chain, chain.tip, proposal, [batch]) == first
    assert chain.entries == entries
    assert len(chain.executor.replay) == 0


def test_a_refused_transaction_leaves_a_receipt_and_nothing_else(chain: Chain) -> None:
    receipts = chain.block((ALICE, Say("a")), (BOB, Say("refuse")), (ALICE, Say("b")))
    assert [(receipt.code, receipt.detail) for receipt in receipts] == [
        (0, ()),
        (Code.UNKNOWN_RECORD, ("a", 1, b"k")),
        (0, ()),
    ]
    assert chain.read("test", "words") == ("a", "b")
    assert chain.found("word", "refuse") == []
    assert chain.found("word", "a") == [receipts[0].tx_id]


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("raise", "ZeroDivisionError"),
        ("float", "TypeError"),
        ("huge", "TypeError"),
        ("object", "TypeError"),
        ("index", "TypeError"),
        ("recurse", "RecursionError"),
        ("crash", "KeyError"),
    ],
)
def test_a_rules_mistake_refuses_its_transaction_and_the_block_goes_on(chain: Chain, word: str, error: str) -> None:
    """Trap 45. Even a mistake in a field type of a plug-in."""
    receipts = chain.block((ALICE, Say("a")), (ALICE, Say(word)), (ALICE, Say("b")))
    assert [receipt.code for receipt in receipts] == [0, Code.RULE_FAILED, 0]
    assert receipts[1].detail == ("test", error)
    assert chain.read("test", "words") == ("a", "b")
    assert chain.read("test", "bad") is None


def test_what_a_disk_cannot_read_refuses_no_transaction(chain: Chain) -> None:
    """Trap 45. One node would refuse what all others execute."""

    class Damaged:
        def get(self, key: bytes, /) -> Value:
            raise Unreadable("000005.ldb")

    transaction = chain.transaction(ALICE, Say("a"))
    with pytest.raises(Unreadable):
        chain.executor.try_out(transaction, Damaged(), chain.tip, 0)


def test_whatever_a_rule_puts_into_a_refusal_becomes_a_small_receipt(chain: Chain) -> None:
    """Trap 35, 45. Members of enumerations have no encoding; they must not stop the node."""
    receipt = chain.send(ALICE, Say("enum"))
    assert receipt.detail == (7, "red", 1, b"k" * 112, "str", "str")
    assert Receipt.from_value(receipt.to_value()) == receipt
    assert len(encode(receipt.to_value())) <= RECEIPT_SIZE_BYTES_MAX


@pytest.mark.parametrize(("word", "limit"), [("writes", WRITES_PER_TX_MAX - 2), ("indexes", INDEXES_PER_TX_MAX - 1)])
def test_writes_and_indexes_of_one_transaction_are_bounded(chain: Chain, word: str, limit: int) -> None:
    """Trap 37."""
    within, beyond = chain.block((ALICE, Say(word, limit)), (ALICE, Say(word, limit + 1)))
    assert within.ok
    assert (beyond.code, beyond.detail) == (Code.TOO_LARGE, ("writes",))


def test_the_bytes_that_one_transaction_writes_are_bounded(chain: Chain) -> None:
    """Trap 37. Thirty kilobytes of a transaction wrote four megabytes into every node's state, for ever."""
    within, beyond = chain.block((ALICE, Say("bytes", 1_000)), (ALICE, Say("bytes", 1_100)))
    assert within.ok
    assert (beyond.code, beyond.detail) == (Code.TOO_LARGE, ("bytes written",))
    assert len(chain.read("test", "many", 999)) == 1_000


def test_block_time_never_runs_backwards(chain: Chain) -> None:
    """Trap 44. A leader's clock behind the chain's, or a null block, does not set it back."""
    times = []
    for time_ms in (2_000_000, 1_000, 0, 2_000_001):
        chain.time_ms = time_ms
        result = chain.execute([chain.transaction(ALICE, Say("now"))])
        times.append(result.header.time_ms)
        assert chain.read("test", "time") == (chain.height, times[-1]), "what rules see is what the header says"
    assert times == [2_000_000, 2_000_000, 2_000_000, 2_000_001]


def test_the_header_chains_and_counts(chain: Chain) -> None:
    before = chain.tip
    result = chain.execute([chain.transaction(ALICE, Say("a")), chain.transaction(ALICE, Say("refuse"))])
    digest = result.header.proposal_digest
    assert result.header == Header(1, 0, before.block_hash, digest, chain.time_ms, 2)
    assert before.block_hash == chain.genesis.chain_id, "the chain id is the parent of the first block"
    assert result.tip.block_hash == result.header.hash(chain.genesis.chain_id)
    assert before.results_hash == EMPTY_ROOT
    assert result.tip.results_hash == next_results_hash(EMPTY_ROOT, 1, receipts_root(result.receipts))


def test_a_block_that_does_not_follow_is_our_own_mistake(chain: Chain) -> None:
    """Trap 17."""
    for height in (0, 2):
        with pytest.raises(ValueError, match="cannot follow"):
            chain.executor.execute(chain, chain.tip, Proposal(height, 1, ()), ())


def test_checkpoints_come_at_the_interval_at_a_seal_and_at_the_end_of_an_epoch(chain: Chain) -> None:
    seen = []
    for height in range(1, 9):
        result = chain.execute((), seal=height == 4)
        seen.append(result.is_checkpoint)
        assert result.tip.checkpoint_height == max(h for h in range(height + 1) if h == 0 or seen[h - 1])
    assert seen == [False, False, True, True, False, False, True, False]


def resend(chain: Chain, *transactions: Transaction) -> list[int]:
    return [receipt.code for receipt in chain.execute(transactions).receipts]


def test_a_transaction_is_executed_once_inside_a_block_and_inside_its_window(chain: Chain) -> None:
    """Trap 22, 40."""
    tx = chain.transaction(ALICE, Say("once"), valid_until=4)
    assert resend(chain, tx, tx) == [0, Code.REPLAYED]
    assert resend(chain, tx) == [Code.REPLAYED]
    chain.advance(1)
    assert resend(chain, tx) == [Code.REPLAYED], "its last height"
    assert resend(chain, tx) == [Code.EXPIRED], "afterwards expiry answers for it"
    assert chain.read("test", "words") == ("once",)
    assert len(chain.executor.replay) == 0


def test_sender_and_nonce_identify_a_transaction_whatever_else_it_says(chain: Chain) -> None:
    def make(pair: Any, word: str, nonce: bytes) -> Transaction:
        return Transaction.create(
            pair, chain.genesis.chain_id, "test.say", (word, 0), nonce=nonce, valid_until=chain.height + 5
        )

    one, two = bytes(16), b"\x01" * 16
    assert resend(chain, make(ALICE, "a", one), make(ALICE, "b", one)) == [0, Code.REPLAYED]
    assert resend(chain, make(ALICE, "b", one), make(BOB, "c", one), make(ALICE, "d", two)) == [Code.REPLAYED, 0, 0]
    assert chain.read("test", "words") == ("a", "c", "d")


def test_a_node_that_starts_anew_remembers_what_the_others_remember(chain: Chain) -> None:
    """Trap 22, 23. The window is rebuilt from the blocks of its own heights, and no refusal differs afterwards."""
    executed: list[tuple[Sequence[Transaction], int]] = []
    sent: list[Transaction] = []
    for height in range(1, 26):
        fresh = [
            chain.transaction(ALICE, Say(f"{height} {ahead}"), valid_until=height + ahead) for ahead in (0, 5, 10, 11)
        ]
        again = sent[-6:]
        sent += fresh
        executed.append((chain.execute([*fresh, *again]).transactions, height))
    restarted = Executor(chain.genesis, Registry([*chain.executor.registry.modules]))
    for transactions, height in executed[-QUICK.validity_heights_max :]:
        restarted.accept(transactions, height)
    assert len(restarted.replay) == len(chain.executor.replay) > 0
    for tx in sent:
        assert (tx.replay_key in restarted.replay) == (tx.replay_key in chain.executor.replay)


def test_what_can_be_refused_at_the_door_is_what_execution_refuses(chain: Chain) -> None:
    cases: list[tuple[Transaction, int]] = [
        (chain.transaction(ALICE, Say("a"), valid_until=0), Code.EXPIRED),
        (chain.transaction(ALICE, Say("a"), valid_until=12), Code.VALIDITY_TOO_LONG),
        (chain.transaction(ALICE, Say("a" * 21)), Code.BAD_FIELD),
        (chain.transaction(ALICE, Say("a", -1)), Code.BAD_FIELD),
        (
            Transaction.create(
                ALICE, hash_bytes(b"other"), "test.say", ("a", 0), nonce=b"\x09" * 16, valid_until=chain.height + 1
            ),
            Code.WRONG_CHAIN,
        ),
        (
            Transaction.create(
                ALICE, chain.genesis.chain_id, "test.say", ("a", 0), nonce=b"\x08" * 16, valid_until=1, version=2
            ),
            Code.UNKNOWN_OPERATION,
        ),
    ]
    for tx, code in cases:
        with pytest.raises(Reject) as caught:
            chain.executor.check(tx, chain.height + 1)
        assert caught.value.code == code
    assert resend(chain, *(tx for tx, _ in cases)) == [code for _, code in cases]
    chain.executor.check(chain.transaction(ALICE, Say("fine")), chain.height + 1)


def test_development_keys_are_refused_on_other_chains() -> None:
    development = new_chain()
    serious = replace(development.genesis, development=False)
    executor = Executor(serious, development.executor.registry)
    tx = Transaction.create(
        development_key("hospital"), serious.chain_id, "test.say", ("a", 0), nonce=bytes(16), valid_until=5
    )
    with pytest.raises(Reject) as caught:
        executor.check(tx, 1)
    assert caught.value.code == Code.DEVELOPMENT_KEY
    changes, tip = executor.begin()
    assert changes
    batch = Batch((tx.wire,))
    result = executor.execute(development, tip, Proposal(1, 1, (batch.digest,)), [batch])
    assert result.receipts[0].code == Code.DEVELOPMENT_KEY
    assert development.send(development_key("hospital"), Say("a")).ok


def test_a_validator_change_ends_the_epoch_with_a_checkpoint_at_the_stated_height(chain: Chain) -> None:
    """Trap 3."""
    new = key_pair("fifth validator")
    agreed = new.sign(join_statement(chain.genesis.chain_id, VALIDATORS))
    proposal = chain.send(chain.validators[0], ProposeValidators((new.public,), (), (agreed,)))
    chain.block(*((pair, Vote(proposal.tx_id, True)) for pair in chain.validators[1:3]))
    enacted, end = chain.height, chain.tip.epoch_end
    assert end is not None
    assert end >= enacted + QUICK.log_window - 1
    while chain.height < end:
        assert chain.tip.validators == chain.genesis.validator_set
        assert chain.tip.epoch_end == end
        last = chain.execute(())
    assert last.is_checkpoint
    assert last.header.epoch == 0, "the last block of an epoch is the old set's"
    assert (chain.tip.validators.epoch, chain.tip.validators.first_height) == (1, end + 1)
    assert new.public in chain.tip.validators.keys
    assert chain.tip.epoch_end is None
    assert chain.execute(()).header.epoch == 1
    assert Tip.from_value(chain.tip.to_value()) == chain.tip


@pytest.mark.parametrize("value", [None, (), (1, 2, 3), (0, "hash", 0, b"", 0, (), None)])
def test_what_is_no_tip_is_refused(value: Any) -> None:
    with pytest.raises(CodecError):
        Tip.from_value(value)


def test_genesis_runs_each_modules_part_and_refuses_what_it_refuses() -> None:
    def begin(part: Any, ctx: Context) -> None:
        ctx.put("words", value=0.5 if part["words"] == "half" else tuple(part["words"]))  # type: ignore[arg-type]

    module = replace(MODULE, genesis=begin)
    assert Chain([module], {"test": {"words": ["a"]}}).read("test", "words") == ("a",)
    for wrong in ({}, {"words": 5}, {"words": "half"}):
        with pytest.raises(ConfigError, match="test"):
            Chain([module], {"test": wrong})


def history() -> str:
    """Fifteen blocks of everything above; what they lead to, as text."""
    chain = new_chain()
    for height in range(1, 16):
        calls = [
            chain.transaction(pair, Say(word, height), valid_until=chain.height + ahead)
            for pair in (ALICE, BOB)
            for word in ("a", "refuse", "enum", "raise", "float", "index", "writes", "indexes", "é")
            for ahead in (1, 11)
        ]
        chain.execute(calls[: 5 + height])
    return outcome(chain)


def outcome(chain: Chain) -> str:
    """Hashes of the last block, of all results, of the state, and of the order in which entries were first written."""
    state = hash_bytes(b"".join(key + value for key, value in sorted(chain.entries.items())))
    order = hash_bytes(repr(list(chain.entries)).encode())
    return f"{chain.tip.block_hash.hex()} {chain.tip.results_hash.hex()} {state.hex()} {order.hex()}"


def business() -> str:
    """Six blocks of every built-in module, what is refused too; what they lead to, as text."""
    roles = {"maker": "manufacturer", "clinic": "hospital", "insurer": "insurer", "pharmacy": "pharmacy"}
    institutions = [institution(name, role) for name, role in roles.items()]
    institutions[0] = institution("maker", "manufacturer", prefixes=["9521234"])
    money = {
        "currencies": [{"code": "CNY", "issuer": "insurer", "exponent": 2}],
        "balances": [{"currency": "CNY", "owner": "insurer", "amount": 1_000}],
    }
    modules = [records.MODULE, drugs.MODULE, payments.MODULE]
    chain = Chain(modules, {"members": {"institutions": institutions}, "records": {}, "payments": money}, time_ms=9_000)
    maker, clinic, insurer, pharmacy = map(key_pair, roles)
    patient, record = key_pair("patient"), hash_bytes(b"record")
    pack = sgtin("09521234001010", "SN1")
    chain.block(
        (clinic, records.Register(record, patient.public, "Observation", 1_000)),
        (insurer, payments.Transfer("CNY", "clinic", 300, "ärztlich \u8840\u538b")),
        (maker, Commission("09521234001010", "LOT1", 20280630, 20260701, (), ("SN1", "SN2"), (200, 800), 0)),
    )
    chain.block(
        (patient, records.Grant("insurer", ("payment",), 50_000, (record,), None, None)),
        (maker, Ship((pack,), "pharmacy", 0)),
        (clinic, payments.Transfer("CNY", "insurer", 301, "")),
    )
    chain.block((pharmacy, Receive((pack,), 0)), (insurer, records.Access(record, "payment", "claim-17")))
    chain.block((patient, payments.Transfer("CNY", "clinic", 1, "")), (maker, Ship((pack,), "clinic", 0)))
    chain.block((BOB, payments.Issue("CNY", "clinic", 1)), (insurer, payments.Issue("CNY", "clinic", 1)))
    chain.advance(1)
    return outcome(chain)


def both() -> str:
    return f"{history()}\n{business()}"


# Got with Python 3.11 and 3.12. It changes with the rules, and then on all nodes at one height.
GOLDEN = "\n".join(
    (
        "0139ccc4ba18538a84e2b5871e6424f20dbbdcd06741f187d937485b11213dfb5d"
        " 0107202c56de75fc4297960992f50dbf8d09caeb15b9e8e5a2b9473bcecde80c23"
        " 012ec1e809bd1ac485732bd1a9012df823a72a82a14ed97e7141ecedf7ec0aeb57"
        " 016fa2cef797d097938de7139804c890cd83b2493e7f801f87a420d447abd28b17",
        "01e6d873ba379b24def1ce71f65c84d25e7b8336f2a1285424976480eb308d9c6b"
        " 01ec3e9b9fe03082bc7eaa8c474be2d7fb6aa8406d95c246365779df3150030142"
        " 01fc707b3f75d5882686237ec06509e4e76506213ad79026f61ee6072a9cafbd16"
        " 0139de88bb100964f86f1e0d608a7d5abaa707e6ef899c115efde536cc03835350",
    )
)


def test_execution_gives_the_same_roots_on_every_python_and_machine() -> None:
    """Trap 45. Whatever runs this test, what these blocks lead to is written down here."""
    assert both() == GOLDEN


def test_execution_is_the_same_under_every_hash_seed() -> None:
    """Trap 45. Three processes with hash seeds of their own agree with this one, down to the order of writes."""
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ledger.test_execution"],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("0", "1", "4242")
    ]
    outputs = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert outputs == [both()] * 3


if __name__ == "__main__":
    print(both())
