"""The one route table: what the API answers, from which OpenAPI and docs/http.md are made.

Must not know: how a handler does it.
"""

from __future__ import annotations

from typing import Final

from ledger.crypto import HASH_SIZE_BYTES
from ledger.errors import Code
from ledger.fields import Blob, Choice, Flag, Hash, Integer, Key, Text
from ledger.gs1 import Epc, Gtin, Text82
from ledger.modules.parties import Party
from ledger.modules.payments import CurrencyCode
from node.api import business_reads, chain_reads, events, proofs, submit, vault_access
from node.api.exchange import Body, Cursor, Height, Parameter, Route, RouteTable, Typed
from node.vault import SEALED_SIZE_BYTES_MAX

PAGE_MAX = 500  # entries of a page: some dozens of slices of the event loop
BLOCKS_MAX = 200
WAIT_MS_MAX = 120_000  # what waits longer asks for the receipt
STATE_KEY_SIZE_BYTES_MAX = 4_096

_ID = Typed(Hash())
_PROVE = Parameter("prove", Typed(Flag()), "add proof and certificate", default=False)
_SINCE = Parameter("since", Typed(Integer()), "the epoch whose validators the reader trusts; 0: genesis", default=0)
_AFTER = Parameter("after", Cursor(), "cursor of the last entry read; none: from the beginning")
_LIMIT = Parameter("limit", Typed(Integer(1, PAGE_MAX)), "entries at most", default=100)
_EPC = Parameter("epc", Typed(Epc()), "identifier, e.g. 01/09521234001010/21/SN1", required=True)
_RECORD = Parameter("commitment", Typed(Hash()), f"the record's commitment, {HASH_SIZE_BYTES} bytes in hexadecimal")
_OWNER = Parameter("owner", Typed(Party()), "an institution's id, or a person's key in hexadecimal")


def _id(what: str) -> Parameter:
    return Parameter("id", _ID, f"id of the {what}, in hexadecimal")


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/v1/transactions", submit.submit,
        "Submit one transaction or many; again does no harm. A list is always answered 200, with an outcome each.",
        "transactions", "Submitted",
        query=(
            Parameter("wait", Typed(Choice(("committed",))), "answer when it is final"),
            Parameter("timeout_ms", Typed(Integer(1, WAIT_MS_MAX)), "longest wait", default=10_000),
        ),
        body=Body(
            (submit.JSON, submit.MSGPACK, submit.RAW),
            lambda limits: limits.body_size_bytes_max,
            "JSON: a transaction or a list of them; msgpack: a canonical array of wires; octet-stream: one wire",
        ),
        status=202,
        codes=(
            Code.BAD_REQUEST, Code.BODY_TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE, Code.BAD_FIELD, Code.BAD_SIGNATURE,
            Code.POOL_FULL, Code.TOO_MANY_WAITERS, Code.NOT_FINAL_IN_TIME,
        ),
    ),
    Route(
        "GET", "/v1/transactions/{id}", chain_reads.transaction, "A committed transaction and its receipt.",
        "transactions", "Transaction", path=(_id("transaction"),), query=(_PROVE,),
        codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/receipts/{id}", chain_reads.receipt, "What execution made of a transaction.",
        "transactions", "Receipt", path=(_id("transaction"),), query=(_PROVE,),
        codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/events", events.events,
        "Ordered transactions beyond a cursor: a page, or a stream with `Accept: text/event-stream` "
        "(resumed by Last-Event-ID).",
        "transactions", "Events",
        query=(
            Parameter("after", Cursor(), "cursor of the last event read; latest: only what is still to come", (0, 0)),
            _LIMIT,
        ),
        codes=(Code.TOO_MANY_WAITERS, Code.PRUNED),
    ),
    Route(
        "GET", "/v1/blocks", chain_reads.blocks,
        "Headers, oldest first; without `from` the newest. With `Accept: text/event-stream` a stream from there, or of "
        "what is still to come: one event a block, when it is applied (resumed by Last-Event-ID).",
        "chain", "Blocks",
        query=(
            Parameter("from", Typed(Integer()), "first height"),
            Parameter("limit", Typed(Integer(1, BLOCKS_MAX)), "headers at most", default=20),
        ),
        codes=(Code.TOO_MANY_WAITERS,),
    ),
    Route(
        "GET", "/v1/blocks/{height}", chain_reads.block, "A block with its certificate and outcomes.",
        "chain", "Block", path=(Parameter("height", Height(), "a height, or latest"),),
        codes=(Code.NOT_FOUND, Code.PRUNED, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/state", chain_reads.state, "One entry of the state by its key.", "chain", "State",
        query=(
            Parameter(
                "key", Typed(Blob(STATE_KEY_SIZE_BYTES_MAX, 1)), "state key in hexadecimal", required=True
            ),
            _PROVE,
        ),
    ),
    Route(
        "GET", "/v1/proofs/head", proofs.head, "A proof bundle of how far the chain is certified.", "proofs", "",
        query=(_SINCE,), media_type=proofs.MEDIA_TYPE, codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/proofs/state", proofs.state,
        "A proof bundle of an entry of the state, or of its absence, at the last certified checkpoint.", "proofs", "",
        query=(
            Parameter(
                "key", Typed(Blob(STATE_KEY_SIZE_BYTES_MAX, 1)), "state key in hexadecimal", required=True
            ),
            _SINCE,
        ),
        media_type=proofs.MEDIA_TYPE, codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/proofs/transactions/{id}", proofs.transaction, "A proof bundle of a transaction that was ordered.",
        "proofs", "", path=(_id("transaction"),), query=(_SINCE,), media_type=proofs.MEDIA_TYPE,
        codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/proofs/receipts/{id}", proofs.receipt, "A proof bundle of what execution made of a transaction.",
        "proofs", "", path=(_id("transaction"),), query=(_SINCE,), media_type=proofs.MEDIA_TYPE,
        codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route("GET", "/v1/genesis", chain_reads.genesis, "The chain's genesis.", "chain", "Genesis"),
    Route(
        "GET", "/v1/validators", chain_reads.validators, "The validators in force, and those to come.",
        "members", "Validators", query=(Parameter("epoch", Typed(Integer()), "an earlier epoch"),),
        codes=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/v1/members", chain_reads.list_members, "All institutions.", "members", "Members",
        codes=(Code.TOO_MANY_WAITERS,),
    ),
    Route(
        "GET", "/v1/members/{id}", chain_reads.member, "An institution.", "members", "Member",
        path=(Parameter("id", Typed(Text(66)), "its id, or one of its keys in hexadecimal"),), codes=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/v1/proposals", chain_reads.proposals, "Governance proposals.", "members", "Page",
        query=(_AFTER, _LIMIT), codes=(Code.TOO_MANY_WAITERS,),
    ),
    Route(
        "GET", "/v1/parameters", chain_reads.parameters, "What all nodes share, in force and to come.", "members",
        "Parameters",
    ),
    Route(
        "GET", "/v1/evidence", chain_reads.evidence, "Validators that were shown to have contradicted themselves.",
        "members", "Page", query=(_AFTER, _LIMIT), codes=(Code.TOO_MANY_WAITERS,),
    ),
    Route(
        "GET", "/v1/records/{commitment}", business_reads.record, "A record's metadata.", "records", "Record",
        path=(_RECORD,), codes=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/v1/records/{commitment}/history", business_reads.record_history,
        "Who registered, granted, revoked and read it, when and why.", "records", "Page",
        path=(_RECORD,), query=(_AFTER, _LIMIT), codes=(Code.NOT_FOUND, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/patients/{key}/records", business_reads.patient_records, "The records of a patient.",
        "records", "Page", path=(Parameter("key", Typed(Key()), "the patient's key in hexadecimal"),),
        query=(_AFTER, _LIMIT), codes=(Code.TOO_MANY_WAITERS,),
    ),
    Route(
        "GET", "/v1/packs", business_reads.pack, "The state of a pack, case or pallet.", "drugs", "Pack",
        query=(_EPC,), codes=(Code.NOT_FOUND, Code.BAD_IDENTIFIER, Code.BAD_CHECK_DIGIT),
    ),
    Route(
        "GET", "/v1/packs/trace", business_reads.pack_trace,
        "All that happened to an item, also while it was inside others.", "drugs", "Trace",
        query=(_EPC,), codes=(Code.NOT_FOUND, Code.BAD_IDENTIFIER, Code.BAD_CHECK_DIGIT, Code.TOO_MANY_WAITERS),
    ),
    Route(
        "GET", "/v1/packs/{epc...}", business_reads.pack, "The same, with the identifier in the path.",
        "drugs", "Pack", path=(_EPC,), codes=(Code.NOT_FOUND, Code.BAD_IDENTIFIER, Code.BAD_CHECK_DIGIT),
    ),
    Route(
        "GET", "/v1/lots/{gtin}/{lot...}", business_reads.lot, "A lot.", "drugs", "Lot",
        path=(Parameter("gtin", Typed(Gtin()), "14 digits"), Parameter("lot", Typed(Text82()), "lot number")),
        codes=(Code.NOT_FOUND, Code.BAD_CHECK_DIGIT),
    ),
    Route(
        "GET", "/v1/accounts/{owner}", business_reads.account, "A balance.", "payments", "Account", path=(_OWNER,),
        query=(Parameter("currency", Typed(CurrencyCode()), "e.g. EUR", required=True),), codes=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/v1/accounts/{owner}/history", business_reads.account_history, "What moved an account's money.",
        "payments", "Page", path=(_OWNER,), query=(_AFTER, _LIMIT), codes=(Code.TOO_MANY_WAITERS,),
    ),
    Route(
        "GET", "/v1/claims/{id}", business_reads.claim, "A claim.", "payments", "Claim", path=(_id("claim"),),
        codes=(Code.NOT_FOUND,),
    ),
    Route(
        "GET", "/v1/policies/{id}", business_reads.policy, "An insurance policy.", "payments", "Policy",
        path=(_id("policy"),), codes=(Code.NOT_FOUND,),
    ),
    Route(
        "POST", "/v1/vault", vault_access.put, "Keep a sealed record. Operators only.", "vault", "Stored",
        body=Body(("application/octet-stream",), lambda limits: SEALED_SIZE_BYTES_MAX, "a sealed record"),
        status=201, operator=True,
        codes=(Code.UNAUTHORISED, Code.MALFORMED, Code.BODY_TOO_LARGE, Code.RECORD_EXISTS, Code.RECORD_ERASED),
    ),
    Route(
        "GET", "/v1/vault/{commitment}", vault_access.get,
        "The record, sealed for the reader that logged the access in the last ten minutes; from its custodian's node, "
        "while that is ready. A refused access is 403 with its code.",
        "vault", "", path=(_RECORD,), media_type="application/octet-stream",
        query=(Parameter("access", Typed(Hash()), "id of a committed records.access", required=True),),
        codes=(
            Code.NOT_FOUND, Code.NOT_GRANTED, Code.EXPIRED, Code.NOT_THE_CUSTODIAN, Code.RECORD_WITHDRAWN,
            Code.RECORD_ERASED, Code.NOT_ACCEPTING,
        ),
    ),
    Route(
        "DELETE", "/v1/vault/{commitment}", vault_access.erase,
        "Erase a record from this vault, for good; it is not taken again. `records.erased` then tells the chain.",
        "vault", "Erased", path=(_RECORD,), operator=True,
        codes=(Code.UNAUTHORISED, Code.NOT_FOUND, Code.RECORD_ERASED),
    ),
    Route("GET", "/v1/status", chain_reads.status, "This node and its view of the chain.", "node", "Object"),
    Route("GET", "/v1/why", chain_reads.why, "Whether the chain moves, and if not, why.", "node", "Object"),
    Route("GET", "/v1/peers", chain_reads.peers, "Connected nodes.", "node", "List"),
    Route("GET", "/v1/errors", chain_reads.errors, "Every code with its meaning.", "node", "List"),
    Route(
        "GET", "/v1/metrics", chain_reads.metrics, "Prometheus metrics.", "node", "",
        media_type="text/plain; version=0.0.4; charset=utf-8",
    ),
    Route(
        "GET", "/metrics", chain_reads.metrics, "The same, where collectors look.", "node", "",
        media_type="text/plain; version=0.0.4; charset=utf-8",
    ),
    Route("GET", "/v1/openapi.json", chain_reads.openapi, "This API as OpenAPI 3.1.", "node", "Object"),
    Route(
        "GET", "/", chain_reads.page, "A plain status page.", "node", "", media_type="text/html; charset=utf-8",
    ),
    Route("GET", "/v1/health", chain_reads.health, "The process answers.", "node", "Object"),
    Route(
        "GET", "/v1/ready", chain_reads.ready, "It has its peers and has caught up.", "node", "Object",
        codes=(Code.NOT_ACCEPTING,),
    ),
)  # fmt: skip

TABLE: Final = RouteTable(ROUTES)
