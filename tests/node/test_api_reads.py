"""What the API shows of the chain, against one in memory."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ledger.block import CheckpointCertificate, Phase, vote_statement
from ledger.codec import Value, decode, encode
from ledger.crypto import hash_bytes
from ledger.evidence import Evidence, Half, Offence
from ledger.gs1 import sgtin
from ledger.modules import parties
from ledger.modules.drug_operations import Aggregate, Commission, CommissionContainer, Disaggregate, Receive, Ship
from ledger.modules.members import ProposeInstitution, ProposeParameters, ProposeValidators, ReportEvidence, Vote
from ledger.modules.parties import join_statement
from ledger.modules.payments import Claim, Confirm, Policy, Transfer
from ledger.modules.records import Access, Grant, Register, Revoke
from ledger.state import state_key
from ledger.stateproof import ReceiptProof, StateProof, TransactionProof
from node.api import business_reads
from tests.ledger.chain import VALIDATORS, key_pair
from tests.node.api_http import ask, get, post_json
from tests.node.api_service import (
    CLINIC,
    GENESIS,
    HOSPITAL,
    INSURER,
    MAKER,
    PATIENT,
    PHARMACY,
    START_MS,
    FakeService,
    running,
)
from tests.node.test_api_bad_requests import RAW, document

RECORD, OTHER_RECORD = b"\x01" + b"r" * 32, b"\x01" + b"s" * 32
GTIN = "09521234001010"
SSCC = "00/395212340000000014"
PACK = sgtin(GTIN, "A/1")
LATER_MS = START_MS + 10**9


def proof_of(reply: dict[str, Any], name: str = "proof") -> Value:
    return decode(bytes.fromhex(reply[name]["encoded"]), size_bytes_max=10**6, items_max=10**5)


@pytest.mark.asyncio
async def test_a_transaction_as_json_is_the_one_its_sender_signed(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 5, "é"))
        accepted = await post_json(server.url, document(tx))
        assert (accepted.status, accepted.json["id"], accepted.json["status"]) == (202, tx.id.hex(), "accepted")
        assert service.pool == [tx]
        again = await post_json(server.url, [document(tx)])
        assert (again.status, again.json[0]["code"], service.pool) == (200, 0, [tx])


@pytest.mark.asyncio
async def test_waiting_gives_the_receipt_and_a_refusal_carries_it(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        good = service.transaction(HOSPITAL, Transfer("EUR", "maker", 5, ""))
        reply = await ask(server.url, "POST", "/v1/transactions?wait=committed", good.wire, RAW)
        assert (reply.status, reply.json["status"], reply.json["code"], reply.json["height"]) == (
            200,
            "committed",
            0,
            1,
        )
        poor = service.transaction(CLINIC, Transfer("EUR", "maker", 5, ""))
        refused = await ask(server.url, "POST", "/v1/transactions?wait=committed", poor.wire, RAW)
        assert (refused.status, refused.json["code"]) == (422, "MC2303")
        assert refused.json["receipt"]["height"] == 2
        assert refused.json["values"] == ["clinic", "EUR", 0, 5]
        many = await ask(
            server.url,
            "POST",
            "/v1/transactions?wait=committed",
            encode((service.transaction(CLINIC, Transfer("EUR", "maker", 5, "")).wire, b"junk")),
            {"Content-Type": "application/msgpack"},
        )
        assert many.status == 200
        assert [(item["status"], item["label"]) for item in many.json] == [("refused", "MC2303"), ("refused", "MC1001")]


@pytest.mark.asyncio
async def test_transactions_and_receipts_come_with_proofs_that_verify(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        tx = service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        validators, chain_id = GENESIS.validator_set, GENESIS.chain_id
        shown = (await get(server.url, f"/v1/transactions/{tx.id.hex()}?prove=true")).json
        assert shown["fields"] == {"currency": "EUR", "to": "maker", "amount": 5, "reference": "x"}
        assert bytes.fromhex(shown["wire"]) == tx.wire
        assert TransactionProof.from_value(proof_of(shown)).verify(tx.id, chain_id, validators)
        waiting = (await get(server.url, f"/v1/receipts/{tx.id.hex()}?prove=true")).json
        assert waiting["proof"] is None
        service.commit(seal=True)
        receipt = (await get(server.url, f"/v1/receipts/{tx.id.hex()}?prove=true")).json
        assert (receipt["code"], receipt["label"], receipt["name"], receipt["cursor"]) == (0, "MC0000", "ok", "1:0")
        proof = ReceiptProof.from_value(proof_of(receipt))
        assert proof.verify(chain_id, validators)
        assert (proof.receipt.tx_id, proof.height) == (tx.id, 1)


@pytest.mark.asyncio
async def test_state_is_proven_against_the_certified_checkpoint(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        service.commit(seal=True)
        for key, expected in ((state_key("payments", "balance", "EUR", "maker"), 5), (b"nothing", None)):
            shown = (await get(server.url, f"/v1/state?key={key.hex()}&prove=true")).json
            assert (shown["value"], shown["height"]) == (expected, 2)
            checkpoint = CheckpointCertificate.from_value(proof_of(shown, "checkpoint"))
            assert checkpoint.valid(GENESIS.chain_id, GENESIS.validator_set)
            encoded = None if expected is None else encode(expected)
            assert StateProof.from_value(proof_of(shown)).verify(checkpoint.state_root, key, encoded)


@pytest.mark.asyncio
async def test_blocks_are_listed_and_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        assert (await get(server.url, "/v1/blocks")).json == {"height": 0, "items": []}
        assert (await get(server.url, "/v1/blocks/latest")).status == 404
        for _ in range(5):
            service.commit()
        tx = service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        newest = (await get(server.url, "/v1/blocks?limit=2")).json
        assert [item["height"] for item in newest["items"]] == [5, 6]
        first = (await get(server.url, "/v1/blocks?from=1&limit=2")).json
        assert [item["height"] for item in first["items"]] == [1, 2]
        latest = (await get(server.url, "/v1/blocks/latest")).json
        assert latest["transactions"] == [{"id": tx.id.hex(), "code": 0}]
        assert latest["hash"] == service.store.tip.block_hash.hex()
        assert latest["parent_hash"] == newest["items"][0]["hash"]
        assert len(latest["certificate"]["signatures"]) == 3


@pytest.mark.asyncio
async def test_a_records_history_says_who_what_when_and_why(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.send(HOSPITAL, Register(RECORD, PATIENT.public, "Observation", 100))
        service.send(HOSPITAL, Register(OTHER_RECORD, PATIENT.public, "Consent", 1))
        granted = service.send(PATIENT, Grant("clinic", ("treatment",), LATER_MS, (RECORD,), None, None))
        wide = service.send(PATIENT, Grant("insurer", ("payment",), LATER_MS, (), "hospital", None))
        service.send(PATIENT, Grant("insurer", ("payment",), LATER_MS, (), None, "Consent"))
        service.send(CLINIC, Access(RECORD, "treatment", "ward round"))
        service.send(PATIENT, Revoke(granted.id))
        service.send(PATIENT, Revoke(wide.id))
        shown = (await get(server.url, f"/v1/records/{RECORD.hex()}")).json
        assert shown == {
            "record": RECORD.hex(), "custodian": "hospital", "patient": PATIENT.public.hex(), "kind": "Observation",
            "size_bytes": 100, "state": "held",
        }  # fmt: skip
        history = (await get(server.url, f"/v1/records/{RECORD.hex()}/history")).json
        names = [(item["operation"], item["member"]) for item in history["items"]]
        assert names == [
            ("records.register", "hospital"),
            ("records.grant", None),
            ("records.grant", None),
            ("records.access", "clinic"),
            ("records.revoke", None),
            ("records.revoke", None),
        ]
        access = history["items"][3]
        assert access["fields"] == {"record": RECORD.hex(), "purpose": "treatment", "reason": "ward round"}
        assert access["time_ms"] == START_MS + 6_000
        assert history["next"] is None
        listed = (await get(server.url, f"/v1/patients/{PATIENT.public.hex()}/records")).json
        assert [item["record"] for item in listed["items"]] == [RECORD.hex(), OTHER_RECORD.hex()]


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_pages_of_a_history_join_without_loss_or_repetition(tmp_path: Path, limit: int) -> None:
    async with running(tmp_path) as (service, server):
        service.send(HOSPITAL, Register(RECORD, PATIENT.public, "Observation", 100))
        for number in range(4):
            service.send(HOSPITAL, Register(b"\x01" + bytes([number]) * 32, PATIENT.public, "Consent", 1))
            service.send(HOSPITAL, Access(RECORD, "treatment", str(number)))
        found, after = [], ""
        while True:
            page = (await get(server.url, f"/v1/records/{RECORD.hex()}/history?limit={limit}{after}")).json
            assert len(page["items"]) <= limit
            found += [item["cursor"] for item in page["items"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert found == ["1:0", "3:0", "5:0", "7:0", "9:0"]


def commission(serial: str) -> Commission:
    return Commission(GTIN, "L/1", 20280630, 20260601, (), (serial,), (200, 800), START_MS)


@pytest.mark.asyncio
async def test_a_packs_trace_goes_through_its_parents(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.send(MAKER, commission("A/1"))
        service.send(MAKER, CommissionContainer((SSCC,), START_MS))
        service.send(MAKER, Aggregate(SSCC, (PACK,), START_MS))
        service.send(MAKER, Ship((SSCC,), "pharmacy", START_MS))
        service.send(PHARMACY, Receive((SSCC,), START_MS))
        service.send(PHARMACY, Disaggregate(SSCC, (), START_MS))
        service.send(PHARMACY, Ship((SSCC,), "maker", START_MS))
        trace = (await get(server.url, f"/v1/packs/trace?epc={PACK}")).json
        steps = [(item["operation"], item["via"], item["member"]) for item in trace["items"]]
        assert steps == [
            ("drugs.commission", PACK, "maker"),
            ("drugs.aggregate", PACK, "maker"),
            ("drugs.ship", SSCC, "maker"),
            ("drugs.receive", SSCC, "pharmacy"),
            ("drugs.disaggregate", PACK, "pharmacy"),
        ]
        assert trace["truncated"] is False
        by_path = (await get(server.url, f"/v1/packs/{PACK}")).json
        escaped = (await get(server.url, f"/v1/packs/{PACK.replace('/', '%2F')}")).json
        by_query = (await get(server.url, f"/v1/packs?epc={PACK}")).json
        assert by_path == escaped == by_query
        assert (by_path["status"], by_path["custodian"], by_path["maker"]) == ("active", "pharmacy", "maker")
        assert by_path["expired"] is False
        lot = (await get(server.url, f"/v1/lots/{GTIN}/L/1")).json
        assert (lot["packs"], lot["recalled"], lot["temperature"]) == (1, False, [200, 800])
        assert (await get(server.url, f"/v1/packs/{sgtin(GTIN, 'B')}")).status == 404
        assert (await get(server.url, f"/v1/packs/trace?epc={sgtin(GTIN, 'B')}")).status == 404
        assert (await get(server.url, f"/v1/lots/{GTIN}/L2")).status == 404


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", ["TRACE_OPERATIONS_MAX", "TRACE_SIZE_BYTES_MAX"])
async def test_a_trace_over_its_limits_says_that_it_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    async with running(tmp_path) as (service, server):
        sent = [service.send(MAKER, commission("A/1")), service.send(MAKER, Ship((PACK,), "pharmacy", START_MS))]
        service.send(PHARMACY, Receive((PACK,), START_MS))
        two = {"TRACE_OPERATIONS_MAX": 2, "TRACE_SIZE_BYTES_MAX": sum(len(tx.wire) for tx in sent)}
        monkeypatch.setattr(business_reads, limit, two[limit])
        trace = (await get(server.url, f"/v1/packs/trace?epc={PACK}")).json
        assert [item["operation"] for item in trace["items"]] == ["drugs.commission", "drugs.ship"]
        assert trace["truncated"] is True


@pytest.mark.asyncio
async def test_accounts_claims_and_policies_are_shown(tmp_path: Path) -> None:
    policy_id, claim_id, treatment = (b"\x01" + letter * 32 for letter in (b"p", b"c", b"t"))
    async with running(tmp_path) as (service, server):
        terms = (8_000, None, 10_000, 50_000, START_MS, LATER_MS)
        service.send(INSURER, Policy(policy_id, PATIENT.public, "EUR", *terms))
        service.send(HOSPITAL, Transfer("EUR", "insurer", 10_000, ""))
        service.send(HOSPITAL, Transfer("EUR", PATIENT.public.hex(), 300, ""))
        service.send(HOSPITAL, Claim(claim_id, policy_id, 1_000, treatment))
        shown = (await get(server.url, f"/v1/claims/{claim_id.hex()}")).json
        assert (shown["state"], shown["provider"], shown["policy"]) == ("open", "hospital", policy_id.hex())
        service.send(PATIENT, Confirm(claim_id, policy_id, "hospital", 1_000, treatment))
        shown = (await get(server.url, f"/v1/claims/{claim_id.hex()}")).json
        assert (shown["state"], shown["insurer_amount"], shown["patient_amount"]) == ("settled", 800, 200)
        assert (await get(server.url, f"/v1/policies/{policy_id.hex()}")).json["paid"] == 800
        account = (await get(server.url, f"/v1/accounts/{PATIENT.public.hex()}?currency=EUR")).json
        assert (account["balance"], account["exponent"]) == (100, 2)
        history = (await get(server.url, "/v1/accounts/hospital/history")).json
        assert [item["operation"] for item in history["items"]] == [
            "payments.transfer", "payments.transfer", "payments.claim", "payments.confirm",
        ]  # fmt: skip
        for path in (f"/v1/claims/{policy_id.hex()}", f"/v1/policies/{claim_id.hex()}"):
            assert (await get(server.url, path)).status == 404


@pytest.mark.asyncio
async def test_members_admitted_by_governance_are_listed(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        before = (await get(server.url, "/v1/members")).json["items"]
        assert [item["id"] for item in before] == ["hospital", "maker", "pharmacy", "insurer", "clinic"]
        newcomer = key_pair("newcomer")
        joining = newcomer.sign(join_statement(GENESIS.chain_id, "lab"))
        proposed = service.send(
            VALIDATORS[0], ProposeInstitution("lab", "Lab", ("hospital",), newcomer.public, (), (), True, joining)
        )
        service.send(VALIDATORS[1], Vote(proposed.id, True))
        (open_one,) = (await get(server.url, "/v1/proposals")).json["items"]
        assert (open_one["open"], open_one["change"]["id"], len(open_one["approvals"])) == (True, "lab", 2)
        service.send(VALIDATORS[2], Vote(proposed.id, True))
        assert [item["id"] for item in (await get(server.url, "/v1/members")).json["items"]][-1] == "lab"
        by_key = (await get(server.url, f"/v1/members/{newcomer.public.hex()}")).json
        assert by_key == (await get(server.url, "/v1/members/lab")).json
        assert by_key["roles"] == ["hospital"]


@pytest.mark.asyncio
async def test_validators_in_force_and_to_come_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        now = (await get(server.url, "/v1/validators")).json
        assert (now["n"], now["f"], now["quorum"], now["next"]) == (4, 1, 3, None)
        fifth = key_pair("fifth")
        agreed = fifth.sign(join_statement(GENESIS.chain_id, parties.VALIDATORS))
        joins = service.send(VALIDATORS[0], ProposeValidators((fifth.public,), (), (agreed,)))
        for voter in VALIDATORS[1:3]:
            service.send(voter, Vote(joins.id, True))
        later = (await get(server.url, "/v1/validators")).json
        assert (later["n"], later["next"]["n"], later["next"]["epoch"]) == (4, 5, 1)
        assert (await get(server.url, "/v1/validators?epoch=0")).json["n"] == 4
        assert (await get(server.url, "/v1/validators?epoch=7")).status == 404


@pytest.mark.asyncio
async def test_parameters_in_force_and_to_come_are_shown(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        known = asdict(GENESIS.parameters)
        assert (await get(server.url, "/v1/parameters")).json == {"epoch": 0, "values": known, "next": None}
        proposed = service.send(VALIDATORS[0], ProposeParameters((("window", 4),)))
        (listed,) = (await get(server.url, "/v1/proposals")).json["items"]
        assert listed["change"] == {"kind": "parameters", "changes": [["window", 4]]}
        for voter in VALIDATORS[1:3]:
            service.send(voter, Vote(proposed.id, True))
        first_height = service.store.tip.height + GENESIS.parameters.log_window + 1
        following = {"epoch": 1, "first_height": first_height, "values": known | {"window": 4}}
        shown = (await get(server.url, "/v1/parameters")).json
        assert (shown["values"], shown["next"]) == (known, following)


@pytest.mark.asyncio
async def test_convictions_are_listed(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        assert (await get(server.url, "/v1/evidence")).json == {"items": [], "next": None}
        culprit = max(VALIDATORS, key=lambda pair: pair.public)
        digests = [hash_bytes(letter) for letter in (b"a", b"b")]
        statements = [vote_statement(GENESIS.chain_id, 0, 2, 5, Phase.COMMIT, digest) for digest in digests]
        halves = [Half((digest,), culprit.sign(text)) for digest, text in zip(digests, statements, strict=True)]
        proof = Evidence.of(Offence.VOTE, 0, 3, (2, 5, int(Phase.COMMIT)), *halves)
        tx = service.send(HOSPITAL, ReportEvidence(proof.wire))
        service.send(CLINIC, ReportEvidence(proof.wire))  # a copy is refused, and not listed
        (item,) = (await get(server.url, "/v1/evidence?limit=5")).json["items"]
        assert item == {
            "id": tx.id.hex(),
            "height": 1,
            "position": 0,
            "time_ms": START_MS + 1_000,
            "epoch": 0,
            "key": culprit.public.hex(),
            "member": None,
            "offence": "vote",
            "place": [2, 5, int(Phase.COMMIT)],
            "loses_vote": False,
            "reporter": HOSPITAL.public.hex(),
            "evidence": proof.wire.hex(),
        }


@pytest.mark.asyncio
async def test_the_node_tells_of_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        assert (await get(server.url, "/v1/status")).json["chain_id"] == GENESIS.chain_id.hex()
        assert (await get(server.url, "/v1/why")).json["moving"] is True
        assert (await get(server.url, "/v1/peers")).json["items"][0]["key"] == VALIDATORS[0].public.hex()
        assert (await get(server.url, "/v1/genesis")).json["name"] == "api test"
        metrics = await get(server.url, "/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert metrics.body == (await get(server.url, "/v1/metrics")).body
        errors = {item["code"]: item for item in (await get(server.url, "/v1/errors")).json["items"]}
        assert errors["MC2104"]["name"] == "not_granted"
        assert (await get(server.url, "/v1/ready")).json == {"ready": True}
        service.is_ready = False
        unready = await get(server.url, "/v1/ready")
        assert (unready.status, unready.json["code"], unready.headers["retry-after"]) == (503, "MC3010", "1")
        assert (await get(server.url, "/v1/health")).status == 200


@pytest.mark.asyncio
async def test_head_answers_like_get_without_a_body(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, server):
        got = await get(server.url, "/v1/genesis")
        head = await ask(server.url, "HEAD", "/v1/genesis")
        assert (head.status, head.headers["content-length"]) == (200, str(len(got.body)))
        assert (await ask(server.url, "HEAD", "/v1/transactions")).headers["allow"] == "POST"


def refused_fields(service: FakeService) -> bytes:
    """A transaction whose fields nobody can name is on the chain all the same."""
    tx = service.transaction(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
    broken = type(tx).create(
        HOSPITAL, tx.chain_id, "payments.transfer", (1,), nonce=tx.nonce, valid_until=tx.valid_until
    )
    service.pool.append(broken)
    service.commit()
    return broken.id


@pytest.mark.asyncio
async def test_fields_that_no_module_can_name_are_shown_as_a_list(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        shown = (await get(server.url, f"/v1/transactions/{refused_fields(service).hex()}")).json
        assert (shown["fields"], shown["label"]) == ([1], "MC1011")
