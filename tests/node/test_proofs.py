"""Proof bundles as their users meet them: asked of a node over HTTP, checked by the command line without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ledger.crypto import verify
from ledger.modules.payments import Transfer
from ledger.proofcheck import Proven, Trusted, check
from ledger.state import state_key
from node import cli
from node.api.client import Client
from node.cli.proofs import _shown
from tests.node.api_http import get
from tests.node.api_service import GENESIS, HOSPITAL, running

TRUSTED = Trusted(GENESIS.chain_id, 0, GENESIS.validator_set.keys)
BALANCE = state_key("payments", "balance", "EUR", "maker")


def proven(bundle: bytes) -> Proven:
    return check(bundle, TRUSTED, verify)


@pytest.mark.asyncio
async def test_a_node_gives_bundles_of_state_transactions_and_receipts(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        tx = service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        async with Client(server.url) as client:
            assert (await get(server.url, f"/v1/proofs/receipts/{tx.id.hex()}")).status == 404
            service.commit(seal=True)
            reached = proven(await client.proof_of_head())
            assert (reached.kind, reached.height, reached.fact["state_root"]) == (
                "head",
                2,
                service.store.state_root(2),
            )
            held = proven(await client.proof_of_state(BALANCE))
            assert (held.kind, held.height, held.fact["key"], held.fact["value"]) == ("state", 2, BALANCE, b"\x05")
            assert proven(await client.proof_of_state(b"nobody")).fact["value"] is None
            ordered = proven(await client.proof_of_transaction(tx.id))
            assert (ordered.height, ordered.fact["wire"]) == (1, tx.wire)
            outcome = proven(await client.proof_of_receipt(tx.id.hex()))
            assert (outcome.height, outcome.fact["id"], outcome.fact["code"]) == (1, tx.id, 0)
        unknown = await get(server.url, f"/v1/proofs/transactions/{'01' * 33}")
        assert (unknown.status, unknown.json["code"]) == (404, "MC3004")
        later = await get(server.url, f"/v1/proofs/state?key={BALANCE.hex()}&since=3")
        assert later.status == 404
        assert "epoch 3 has not begun" in later.json["detail"]


async def make_bundle(tmp_path: Path) -> None:
    """A bundle, and the genesis beside it."""
    async with running(tmp_path) as (service, server):
        service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        service.commit(seal=True)
        async with Client(server.url) as client:
            (tmp_path / "balance.proof").write_bytes(await client.proof_of_state(BALANCE))
    (tmp_path / "genesis.json").write_text(GENESIS.to_json())


def run(*arguments: object) -> int:
    return cli.run([str(one) for one in arguments])


@pytest.mark.asyncio
async def test_the_command_checks_a_bundle_from_its_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_bundle(tmp_path)
    proof, genesis, trust = tmp_path / "balance.proof", tmp_path / "genesis.json", tmp_path / "trust.json"
    assert run("verify-proof", proof, "--genesis", genesis, "--save-trust", trust, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["proven"], shown["key"], shown["value"]) == ("state", ["payments", "balance", "EUR", "maker"], 5)
    assert run("verify-proof", proof, "--trust", trust) == 0
    assert "payments" in capsys.readouterr().out


@pytest.mark.asyncio
async def test_the_command_refuses_a_tampered_bundle_and_other_trust(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await make_bundle(tmp_path)
    proof, genesis, trust = tmp_path / "balance.proof", tmp_path / "genesis.json", tmp_path / "trust.json"
    data = bytearray(proof.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bad.proof").write_bytes(data)
    assert run("verify-proof", tmp_path / "bad.proof", "--genesis", genesis) == 1
    assert "MC4006 the bundle proves nothing" in capsys.readouterr().err
    strangers = {"chain": GENESIS.chain_id.hex(), "epoch": 0, "keys": [(b"\x01" + bytes(32)).hex()]}
    trust.write_text(json.dumps(strangers))
    assert run("verify-proof", proof, "--trust", trust) == 1
    trust.write_text("{}")
    assert run("verify-proof", proof, "--trust", trust) == 2
    assert "not what a light client remembers" in capsys.readouterr().err
    assert run("verify-proof", proof) == 2


def test_bytes_in_a_refusals_detail_are_shown_in_hexadecimal() -> None:
    shown = _shown({"id": b"\x01", "code": 2204, "detail": ("serial", b"\xab", 3)})
    assert json.loads(json.dumps(shown)) == {"id": "01", "code": 2204, "detail": ["serial", "ab", 3]}
