"""Proof bundles as their users meet them: asked of a node over HTTP, checked by the command line without it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ledger.codec import encode
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


@pytest.mark.asyncio
async def test_who_asks_for_a_receipt_that_refuses_one_copy_is_told_why_there_is_no_proof(tmp_path: Path) -> None:
    async with running(tmp_path) as (service, server):
        service.pool.append(service.transaction(HOSPITAL, Transfer("EUR", "maker", 5, "x"), valid_until=0))
        (late,) = service.pool
        service.commit(seal=True)
        reply = await get(server.url, f"/v1/proofs/receipts/{late.id.hex()}")
        assert (reply.status, reply.json["code"]) == (404, "MC3004")
        assert "its receipt (MC1007) says only that one copy was refused" in reply.json["detail"]


async def make_bundle(tmp_path: Path, *keys: bytes) -> None:
    """A bundle of a balance, numbered ones of more keys, and the genesis beside them."""
    async with running(tmp_path) as (service, server):
        service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        service.commit(seal=True)
        async with Client(server.url) as client:
            (tmp_path / "balance.proof").write_bytes(await client.proof_of_state(BALANCE))
            for number, key in enumerate(keys):
                (tmp_path / f"{number}.proof").write_bytes(await client.proof_of_state(key))
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


@pytest.mark.asyncio
async def test_bytes_and_the_text_that_looks_like_them_are_shown_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An absence was shown under the very key that is present."""
    public = HOSPITAL.public
    await make_bundle(tmp_path, state_key("members", "key", public), state_key("members", "key", public.hex()))
    shown = []
    for number in range(2):
        assert run("verify-proof", tmp_path / f"{number}.proof", "--genesis", tmp_path / "genesis.json", "--json") == 0
        shown.append(json.loads(capsys.readouterr().out))
    assert [one["present"] for one in shown] == [True, False]
    assert [one["key"][2] for one in shown] == [{"hex": public.hex()}, public.hex()]
    assert shown[0]["key_hex"] != shown[1]["key_hex"]
    assert shown[1]["value"] is None


@pytest.mark.asyncio
async def test_a_strangers_text_makes_no_lines_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key may be any bytes, also text with lines that look like the command's, and with what moves the cursor."""
    lie = 'x\nvalue    999999999\n\x1b[2Jkey      ["payments","balance","EUR","hospital"]'
    await make_bundle(tmp_path, encode(lie), encode('["payments", "balance", "EUR", "hospital"]'))
    plain = []
    for number in range(2):
        assert run("verify-proof", tmp_path / f"{number}.proof", "--genesis", tmp_path / "genesis.json") == 0
        plain.append(capsys.readouterr().out)
    assert [line.split()[1] for line in plain[0].splitlines() if line.startswith("value")] == ["absent"]
    assert "\x1b" not in plain[0]
    (key,) = [line.split(maxsplit=1)[1] for line in plain[1].splitlines() if line.startswith("key ")]
    assert json.loads(key) == '["payments", "balance", "EUR", "hospital"]'


@pytest.mark.parametrize(
    ("parts", "what"),
    [
        (("payments",), "a module and a table"),
        (("a", "b", "int:99999999999999999999999"), "int:"),
        (("a", "b", "hex:x"), "hex:"),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_are_the_callers_mistake(
    parts: tuple[str, ...], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prove", "state", *parts, "--out", tmp_path / "x.proof") == 2
    assert what in capsys.readouterr().err
    assert not (tmp_path / "x.proof").exists()


@pytest.mark.asyncio
async def test_what_is_proved_is_said_so_that_a_typing_error_is_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(tmp_path) as (service, server):
        service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        service.commit(seal=True)
        for module, said in (("payments", "proved: value 5\n"), ("paymnts", "proved: nothing stands under this key\n")):
            words = ["prove", "state", module, "balance", "EUR", "maker", "--api", server.url]
            assert await asyncio.to_thread(cli.run, [*words, "--out", str(tmp_path / "x.proof")]) == 0
            assert capsys.readouterr().err == said


@pytest.mark.asyncio
async def test_what_is_remembered_is_never_less_than_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--save-trust` over a light client's memory took it back to no block at all."""
    await make_bundle(tmp_path)
    genesis, memory = tmp_path / "genesis.json", tmp_path / "phone.json"
    block = (b"\x01" + bytes(32)).hex()
    keys = [key.hex() for key in GENESIS.validator_set.keys]
    known = {"chain": GENESIS.chain_id.hex(), "epoch": 0, "keys": keys, "height": 53, "block": block}
    memory.write_text(json.dumps(known))
    arguments = ("verify-proof", tmp_path / "balance.proof", "--save-trust", memory)
    assert run(*arguments, "--trust", memory) == 0
    assert run(*arguments, "--genesis", genesis) == 0
    assert json.loads(memory.read_text()) == known
    capsys.readouterr()
    memory.write_text(json.dumps(known | {"chain": block}))
    assert run(*arguments, "--genesis", genesis) == 1
    assert "another chain" in capsys.readouterr().err


def test_bytes_in_a_refusals_detail_are_shown_in_hexadecimal() -> None:
    shown = _shown({"id": b"\x01", "code": 2204, "detail": ("serial", b"\xab", 3)})
    assert json.loads(json.dumps(shown)) == {"id": "01", "code": 2204, "detail": ["serial", "ab", 3]}
