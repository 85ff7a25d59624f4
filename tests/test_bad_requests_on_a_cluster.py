"""Thirty bad requests to a real four-node cluster: each gets the documented code, and the nodes stay of one mind."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.crypto import KeyPair, hash_bytes
from ledger.errors import Code
from ledger.fields import Operation
from ledger.genesis import development_key
from ledger.gs1 import check_digit, sgtin
from ledger.modules.drug_operations import Commission, Dispense, Recall, Receive, Ship
from ledger.modules.members import AddKeys, Vote
from ledger.modules.payments import Claim, Issue, Policy, Redeem, Transfer
from ledger.modules.records import Access, Grant, Register, Revoke
from ledger.transaction import Transaction
from node.api.client import ApiError, SyncClient
from node.cluster.plan import COMPANY_PREFIXES
from node.cluster.runner import LocalCluster

PREFIX = COMPANY_PREFIXES["maker"][0]
_BODY = f"0{PREFIX}".ljust(13, "1")
GTIN = f"{_BODY}{check_digit(_BODY)}"
WRONG = f"{_BODY}{(int(GTIN[-1]) + 1) % 10}"
FOREIGN = f"0959999000000{check_digit('0959999000000')}"
EXPIRY, PRODUCED = 20991231, 20260101
STRANGER = KeyPair.from_seed(bytes(range(32)))
RECORD, OTHER = hash_bytes(b"record"), hash_bytes(b"another")
POLICY = hash_bytes(b"policy")
PATIENT = development_key("patient")
GRANT = Grant("pharmacy", ("treatment",), 2**50, (RECORD,), None, None)


class Sender:
    """Signs and sends; returns the code that the chain or the door gives."""

    def __init__(self, client: SyncClient) -> None:
        self.client = client
        self.chain_id = client.genesis().chain_id
        self.last: Transaction

    def sign(self, who: str | KeyPair, operation: Operation, **changed: object) -> Transaction:
        key = development_key(who) if isinstance(who, str) else who
        values = {"nonce": secrets.token_bytes(16), "valid_until": self.client.height() + 500} | changed
        chain_id = values.pop("chain_id", self.chain_id)
        self.last = Transaction.create(key, chain_id, operation.NAME, operation.to_fields(), **values)  # type: ignore[arg-type]
        return self.last

    def code_of(self, wire: bytes) -> int:
        try:
            return int(self.client.submit_wait(wire, 10_000)["code"])
        except ApiError as error:
            return error.code

    def __call__(self, who: str | KeyPair, operation: Operation, **changed: object) -> int:
        return self.code_of(self.sign(who, operation, **changed).wire)


def commission(serial: str, gtin: str = GTIN) -> Commission:
    return Commission(gtin, "LOT-1", EXPIRY, PRODUCED, (), (serial,), None, 1)


def claim(amount: int) -> Claim:
    return Claim(hash_bytes(b"claim %d" % amount), POLICY, amount, RECORD)


def set_up(send: Sender) -> None:
    now_ms = time.time_ns() // 1_000_000
    good = [
        ("maker", commission("1")),
        ("maker", commission("2")),
        ("maker", Ship((sgtin(GTIN, "1"),), "pharmacy", 1)),
        ("hospital", Register(RECORD, PATIENT.public, "Observation", 10)),
        ("insurer", Policy(POLICY, PATIENT.public, "CNY", 8_000, None, 1_000, 5_000, 0, now_ms + 10**9)),
    ]
    for who, operation in good:
        assert send(who, operation) == 0, operation.NAME


Case = tuple[str, Code, Callable[[Sender], int]]


def replay(send: Sender) -> int:
    first = send.sign("insurer", Transfer("CNY", "hospital", 1, ""))
    assert send.code_of(first.wire) == 0
    again = Transfer("CNY", "hospital", 2, "")
    return send("insurer", again, nonce=first.nonce)


def forged(send: Sender) -> int:
    wire = send.sign("insurer", Transfer("CNY", "hospital", 1, "")).wire
    return send.code_of(wire[:20] + bytes([wire[20] ^ 1]) + wire[21:])


def double_spend(send: Sender) -> int:
    assert send("insurer", Transfer("CNY", STRANGER.public.hex(), 100, "")) == 0
    assert send(STRANGER, Transfer("CNY", "hospital", 100, "")) == 0
    return send(STRANGER, Transfer("CNY", "maker", 100, ""))


CASES: list[Case] = [
    ("malformed bytes", Code.MALFORMED, lambda s: s.code_of(b"\x00" * 200)),
    ("oversized", Code.TOO_LARGE, lambda s: s.code_of(b"\x00" * 70_000)),
    ("truncated", Code.MALFORMED, lambda s: s.code_of(s.sign("maker", commission("9")).wire[:-3])),
    ("trailing byte", Code.MALFORMED, lambda s: s.code_of(s.sign("maker", commission("9")).wire + b"\x00")),
    ("forged signature", Code.BAD_SIGNATURE, forged),
    ("another chain's", Code.WRONG_CHAIN, lambda s: s("maker", commission("9"), chain_id=OTHER)),
    ("expired", Code.EXPIRED, lambda s: s("maker", commission("9"), valid_until=0)),
    ("valid too long", Code.VALIDITY_TOO_LONG, lambda s: s("maker", commission("9"), valid_until=10**9)),
    ("replayed nonce", Code.REPLAYED, replay),
    ("unknown version", Code.UNKNOWN_OPERATION, lambda s: s("maker", commission("9"), version=9)),
    ("negative amount", Code.BAD_FIELD, lambda s: s("insurer", Transfer("CNY", "hospital", -1, ""))),
    ("zero amount", Code.BAD_FIELD, lambda s: s("insurer", Transfer("CNY", "hospital", 0, ""))),
    ("double spend", Code.INSUFFICIENT_FUNDS, double_spend),
    ("unknown currency", Code.UNKNOWN_CURRENCY, lambda s: s("insurer", Transfer("XXX", "hospital", 1, ""))),
    ("money from nothing", Code.NOT_THE_ISSUER, lambda s: s("hospital", Issue("CNY", "hospital", 1))),
    ("redeeming others' money", Code.NOT_THE_ISSUER, lambda s: s("maker", Redeem("CNY", 1))),
    ("duplicate serial", Code.SERIAL_EXISTS, lambda s: s("maker", commission("1"))),
    ("wrong role", Code.ROLE_REQUIRED, lambda s: s("insurer", commission("9"))),
    ("foreign prefix", Code.NOT_PREFIX_OWNER, lambda s: s("maker", commission("9", FOREIGN))),
    ("wrong check digit", Code.BAD_CHECK_DIGIT, lambda s: s("maker", commission("9", WRONG))),
    ("not in custody", Code.NOT_IN_CUSTODY, lambda s: s("pharmacy", Ship((sgtin(GTIN, "2"),), "hospital", 1))),
    ("unknown pack", Code.UNKNOWN_PACK, lambda s: s("pharmacy", Dispense((sgtin(GTIN, "77"),), None, 1))),
    ("not the consignee", Code.NOT_THE_CONSIGNEE, lambda s: s("hospital", Receive((sgtin(GTIN, "1"),), 1))),
    ("recall by a pharmacy", Code.ROLE_REQUIRED, lambda s: s("pharmacy", Recall(GTIN, "LOT-1", (), "false", 1))),
    ("record twice", Code.RECORD_EXISTS, lambda s: s("hospital", Register(RECORD, PATIENT.public, "Observation", 1))),
    ("reading without grant", Code.NOT_GRANTED, lambda s: s("pharmacy", Access(RECORD, "treatment", "ward round"))),
    ("granting another's record", Code.NOT_THE_PATIENT, lambda s: s(STRANGER, GRANT)),
    ("unknown grant", Code.UNKNOWN_GRANT, lambda s: s(PATIENT, Revoke(OTHER))),
    ("claim over the limit", Code.LIMIT_EXCEEDED, lambda s: s("hospital", claim(1_001))),
    ("vote by a stranger", Code.NOT_A_VALIDATOR, lambda s: s(STRANGER, Vote(OTHER, True))),
    ("stranger adds keys", Code.NOT_A_MEMBER, lambda s: s(STRANGER, AddKeys((STRANGER.public,), (b"",)))),
]  # fmt: skip


def settled_roots(cluster: LocalCluster) -> set[tuple[int, str]]:
    """(height, state root) of every node, once they stand at the same certified height."""
    deadline = time.monotonic() + 20
    while True:
        found = set()
        for node in cluster.nodes:
            with SyncClient(node.api_url) as client:
                status = client.status()
            found.add((status["height"], status["checkpoint"]["height"], status["checkpoint"]["state_root"]))
        if len(found) == 1 and all(height == at for height, at, _ in found):
            return {(height, root) for height, _, root in found}
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def send_all(cluster: LocalCluster) -> dict[str, tuple[Code, int]]:
    wrong: dict[str, tuple[Code, int]] = {}
    with SyncClient(cluster.nodes[0].api_url) as client:
        send = Sender(client)
        set_up(send)
        for name, expected, act in CASES:
            code = act(send)
            if code != expected:
                wrong[name] = (expected, code)
    return wrong


@pytest.mark.processes
@pytest.mark.xdist_group("processes")
@pytest.mark.asyncio
async def test_thirty_bad_requests_get_their_codes_and_state_roots_stay_equal(tmp_path: Path) -> None:
    assert len(CASES) >= 30
    async with LocalCluster.create(tmp_path / "cluster") as cluster:
        await cluster.wait_ready()
        assert await asyncio.to_thread(send_all, cluster) == {}
        assert len(await asyncio.to_thread(settled_roots, cluster)) == 1
