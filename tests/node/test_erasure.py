"""What the chain calls erased leaves the vault, whatever brought it back there or kept it."""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import pytest

from ledger.fields import Operation
from ledger.genesis import Genesis, development_key
from ledger.modules.records import Erased, Register, Withdraw
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import erasure, keys
from node.cluster.plan import development_modules
from node.config import P2P, Api, Log, NodeConfig
from node.home import DATA, initialise
from node.logs import make_logger
from node.node import Node
from node.vault import SealedRecord, Vault, seal
from storage.errors import Closed
from tests.node.api_service import HOSPITAL, INSURER, PATIENT, FakeService, new_config

LOG = make_logger("error", "text")


def sealed_record() -> SealedRecord:
    return seal(b"{}", media_type="application/json", recipients=[HOSPITAL.public, PATIENT.public])


def with_vault(tmp_path: Path) -> tuple[Vault, FakeService]:
    vault = Vault(tmp_path / "vault")
    return vault, FakeService(new_config(tmp_path), vault=vault)


def registered(vault: Vault, service: FakeService) -> SealedRecord:
    """A record in the vault, which the hospital told the chain of."""
    sealed = sealed_record()
    vault.put(sealed)
    service.send(HOSPITAL, Register(sealed.commitment, PATIENT.public, "Note", 2))
    return sealed


async def emptied(vault: Vault) -> None:
    async with asyncio.timeout(10):
        while vault.list():
            await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_only_what_the_chain_calls_erased_of_this_institution_is_erased(tmp_path: Path) -> None:
    """A stranger may have registered a commitment that it saw on its way: its word erases nothing of ours."""
    vault, service = with_vault(tmp_path)
    unknown, held, withdrawn, erased, of_another = records = [sealed_record() for _ in range(5)]
    for sealed in records:
        vault.put(sealed)
    for sealed in (held, withdrawn, erased):
        service.send(HOSPITAL, Register(sealed.commitment, PATIENT.public, "Note", 2))
    service.send(INSURER, Register(of_another.commitment, PATIENT.public, "Note", 2))
    service.send(PATIENT, Withdraw(withdrawn.commitment))
    service.send(HOSPITAL, Erased(erased.commitment))
    service.send(INSURER, Erased(of_another.commitment))
    await erasure.erase_due(service, LOG)
    kept = [unknown, held, withdrawn, of_another]
    assert vault.list() == tuple(sorted(sealed.commitment for sealed in kept))
    assert vault.erased_at_ms(erased.commitment) is not None


@pytest.mark.asyncio
async def test_one_that_cannot_be_erased_now_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, service = with_vault(tmp_path)
    for sealed in (registered(vault, service), registered(vault, service)):
        service.send(HOSPITAL, Erased(sealed.commitment))
    first, _ = vault.list()
    sound = vault.erase

    def full(commitment: bytes) -> None:
        if commitment == first:
            raise OSError("no space left on device")
        sound(commitment)

    monkeypatch.setattr(vault, "erase", full)
    await erasure.erase_due(service, LOG)
    assert vault.list() == (first,)
    monkeypatch.undo()
    await erasure.erase_due(service, LOG)
    assert vault.list() == ()


@pytest.mark.asyncio
async def test_what_a_node_learns_as_it_catches_up_is_erased_when_it_looks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "LOOK_EVERY_S", 0)
    vault, service = with_vault(tmp_path)
    sealed = registered(vault, service)
    looking = asyncio.create_task(erasure.keep_erased(service, LOG))
    await asyncio.sleep(0)
    service.send(HOSPITAL, Erased(sealed.commitment))
    await emptied(vault)
    looking.cancel()


@pytest.mark.asyncio
async def test_a_store_that_cannot_be_read_is_told_and_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been closed while a full disk was made room on."""
    monkeypatch.setattr(erasure, "LOOK_EVERY_S", 0)
    vault, service = with_vault(tmp_path)
    sealed = registered(vault, service)
    service.send(HOSPITAL, Erased(sealed.commitment))
    damage = Closed("the database")

    def closed(key: bytes) -> None:
        raise damage

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(service.store, "get", closed)
        looking = asyncio.create_task(erasure.keep_erased(service, LOG))
        async with asyncio.timeout(10):
            while not service.damage:
                await asyncio.sleep(0)
        assert service.damage[0] is damage
    await emptied(vault)
    looking.cancel()


@pytest.mark.asyncio
async def test_an_erased_record_that_comes_back_in_an_archive_is_erased_when_the_node_starts(tmp_path: Path) -> None:
    key = development_key("hospital")
    config = NodeConfig(home=tmp_path, p2p=P2P(port=0), api=Api(port=0), log=Log(level="error"))
    keys.save(config.key_path, key)
    genesis = Genesis("erasing", time.time_ns() // 1_000_000, (key.public,), development_modules(), development=True)
    config.genesis_path.write_text(genesis.to_json(), "utf-8")
    initialise(config)
    sealed, patient = sealed_record(), development_key("patient")

    async def send(node: Node, operation: Operation) -> None:
        nonce, valid_until = secrets.token_bytes(NONCE_SIZE_BYTES), node.desk.store.tip.height + 100
        fields, chain_id = operation.to_fields(), genesis.chain_id
        tx = Transaction.create(key, chain_id, operation.NAME, fields, nonce=nonce, valid_until=valid_until)
        assert (await node.submit(tx)).ok

    async with Node(config) as node:
        await send(node, Register(sealed.commitment, patient.public, "Note", 2))
        await send(node, Erased(sealed.commitment))
    Vault(tmp_path / DATA / "vault").put(sealed)
    async with Node(config) as node, asyncio.timeout(10):
        assert node.desk.vault is not None
        while node.desk.vault.list():
            await asyncio.sleep(0.01)
        assert node.desk.vault.erased_at_ms(sealed.commitment) is not None
