"""Encrypted records leave the vault only against a logged, allowed access, for the key that logged it."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ledger.errors import Code, ConfigError
from ledger.genesis import Parameters
from ledger.modules.records import Access, Grant, Register, Revoke, Withdraw
from node.api import tokens
from node.api.server import ApiServer
from node.api.vault_access import ACCESS_AGE_MS_MAX, VAULT_SLOTS
from node.vault import SEALED_SIZE_BYTES_MAX, SealedRecord, Vault, open_record, seal
from tests.ledger.chain import key_pair
from tests.node.api_http import Reply, ask, get
from tests.node.api_service import CLINIC, HOSPITAL, INSURER, PATIENT, START_MS, FakeService, running

RAW = {"Content-Type": "application/octet-stream"}
LATER_MS = START_MS + 10**9
TEXT = b'{"resourceType":"Observation"}'


def sealed_record() -> SealedRecord:
    recipients = (HOSPITAL.public, PATIENT.public)
    return seal(TEXT, media_type="application/fhir+json", recipients=recipients)


async def put(server: ApiServer, home: Path, data: bytes) -> Reply:
    headers = RAW | {"Authorization": f"Bearer {tokens.load(home)}"}
    return await ask(server.url, "POST", "/v1/vault", data, headers)


@asynccontextmanager
async def holding(home: Path) -> AsyncIterator[tuple[FakeService, ApiServer, SealedRecord]]:
    """A custodian that holds one registered record."""
    async with running(home, vault=Vault(home / "vault")) as (service, server):
        sealed = sealed_record()
        stored = await put(server, home, sealed.data)
        assert (stored.status, stored.json["record"]) == (201, sealed.commitment.hex())
        service.send(HOSPITAL, Register(sealed.commitment, PATIENT.public, "Observation", len(sealed.data)))
        yield service, server, sealed


async def fetch(server: ApiServer, record: bytes, access: bytes) -> Reply:
    return await get(server.url, f"/v1/vault/{record.hex()}?access={access.hex()}")


@pytest.mark.asyncio
async def test_an_allowed_reader_gets_a_copy_that_only_it_can_open(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        record = sealed.commitment
        service.send(PATIENT, Grant("clinic", ("treatment",), LATER_MS, (record,), None, None))
        access = service.send(CLINIC, Access(record, "treatment", "ward round"))
        reply = await fetch(server, record, access.id)
        assert (reply.status, reply.headers["content-type"]) == (200, "application/octet-stream")
        assert SealedRecord.from_bytes(reply.body).recipients == (CLINIC.public,)
        assert open_record(reply.body, CLINIC).plaintext == TEXT
        assert TEXT not in reply.body


@pytest.mark.asyncio
async def test_a_refused_access_is_403_with_its_code(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        record = sealed.commitment
        refused = service.send(INSURER, Access(record, "payment", "audit"))
        reply = await fetch(server, record, refused.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2104")
        granted = service.send(PATIENT, Grant("clinic", ("treatment",), LATER_MS, (record,), None, None))
        service.send(PATIENT, Revoke(granted.id))
        revoked = service.send(CLINIC, Access(record, "treatment", "late"))
        reply = await fetch(server, record, revoked.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2106")


@pytest.mark.asyncio
async def test_only_an_access_of_this_very_record_opens_it(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        other = sealed_record()
        registered = service.send(HOSPITAL, Register(other.commitment, PATIENT.public, "Observation", 1))
        access = service.send(HOSPITAL, Access(other.commitment, "treatment", "x"))
        for tx_id in (access.id, registered.id):
            reply = await fetch(server, sealed.commitment, tx_id)
            assert (reply.status, reply.json["errors"][0]["field"]) == (400, "access")
        unknown = await fetch(server, sealed.commitment, b"\x01" + bytes(32))
        assert (unknown.status, unknown.json["code"]) == (404, "MC3004")
        not_held = await fetch(server, other.commitment, access.id)
        assert (not_held.status, not_held.json["code"]) == (404, "MC3004")


@pytest.mark.asyncio
async def test_one_logged_access_is_not_a_key_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        assert (await fetch(server, sealed.commitment, access.id)).status == 200
        for _ in range(Parameters().validity_heights_max + 1):
            service.commit()
        reply = await fetch(server, sealed.commitment, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC1007")


@pytest.mark.asyncio
async def test_who_registers_anothers_record_first_gets_nothing_from_the_vault_that_holds_it(tmp_path: Path) -> None:
    """The commitment is public in a batch before it is ordered: its registration proves nothing about who has it."""
    async with running(tmp_path, vault=Vault(tmp_path / "vault")) as (service, server):
        sealed = sealed_record()
        record = sealed.commitment
        await put(server, tmp_path, sealed.data)
        service.send(INSURER, Register(record, key_pair("anyone").public, "Observation", 1))
        late = service.send(HOSPITAL, Register(record, PATIENT.public, "Observation", len(sealed.data)))
        access = service.send(INSURER, Access(record, "treatment", "x"))
        codes = [receipt.code for tx in (late, access) if (receipt := service.store.receipt(tx.id)) is not None]
        assert codes == [Code.RECORD_EXISTS, Code.OK]
        reply = await fetch(server, record, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2109")
        assert "the record's custodian is insurer; this node's key signs for hospital" in reply.json["detail"]


@pytest.mark.asyncio
async def test_a_node_whose_key_signs_for_no_institution_releases_nothing(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        service.vault_key = key_pair("stranger")
        reply = await fetch(server, sealed.commitment, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2109")
        assert "this node's key signs for no institution" in reply.json["detail"]


@pytest.mark.asyncio
async def test_a_grant_that_ended_opens_nothing_though_no_block_has_come_since(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        record, expires_ms = sealed.commitment, service.time_ms + 5_000
        service.send(PATIENT, Grant("clinic", ("treatment",), expires_ms, (record,), None, None))
        access = service.send(CLINIC, Access(record, "treatment", "ward round"))
        service.wall_ms = expires_ms - 1
        assert (await fetch(server, record, access.id)).status == 200
        service.wall_ms = expires_ms
        reply = await fetch(server, record, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2105")


@pytest.mark.asyncio
async def test_an_access_grows_old_on_a_chain_that_stands_still(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        service.wall_ms = service.time_ms + ACCESS_AGE_MS_MAX
        assert (await fetch(server, sealed.commitment, access.id)).status == 200
        service.wall_ms += 1
        reply = await fetch(server, sealed.commitment, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC1007")


@pytest.mark.asyncio
async def test_a_node_that_may_have_missed_a_revocation_releases_nothing_until_it_has_caught_up(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        service.is_ready = False
        reply = await fetch(server, sealed.commitment, access.id)
        assert (reply.status, reply.json["code"], reply.headers["retry-after"]) == (503, "MC3010", "1")
        service.is_ready = True
        assert (await fetch(server, sealed.commitment, access.id)).status == 200


@pytest.mark.asyncio
async def test_a_grant_that_is_revoked_while_its_reader_waits_for_its_turn_opens_nothing(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        assert server._api is not None
        record, slots = sealed.commitment, server._api.vault_slots
        granted = service.send(PATIENT, Grant("clinic", ("treatment",), LATER_MS, (record,), None, None))
        access = service.send(CLINIC, Access(record, "treatment", "ward round"))
        for _ in range(VAULT_SLOTS):
            await slots.acquire()
        waiting = asyncio.create_task(fetch(server, record, access.id))
        async with asyncio.timeout(5):
            while not slots._waiters:
                await asyncio.sleep(0)
        service.send(PATIENT, Revoke(granted.id))
        for _ in range(VAULT_SLOTS):
            slots.release()
        reply = await waiting
        assert (reply.status, reply.json["code"]) == (403, "MC2106")


@pytest.mark.asyncio
async def test_a_withdrawn_record_is_not_released(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        service.send(PATIENT, Withdraw(sealed.commitment))
        reply = await fetch(server, sealed.commitment, access.id)
        assert (reply.status, reply.json["code"]) == (403, "MC2111")


@pytest.mark.asyncio
async def test_an_erased_record_is_gone_and_not_taken_again(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        assert service.vault is not None
        service.vault.erase(sealed.commitment)
        assert (await fetch(server, sealed.commitment, access.id)).status == 410
        again = await put(server, tmp_path, sealed.data)
        assert (again.status, again.json["code"]) == (410, "MC2110")


async def erase(server: ApiServer, home: Path, record: bytes) -> Reply:
    headers = {"Authorization": f"Bearer {tokens.load(home)}"}
    return await ask(server.url, "DELETE", f"/v1/vault/{record.hex()}", None, headers)


@pytest.mark.asyncio
async def test_an_operator_erases_a_record_once(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        assert service.vault is not None
        unknown = await erase(server, tmp_path, sealed_record().commitment)
        assert (unknown.status, unknown.json["code"]) == (404, "MC3004")
        done = await erase(server, tmp_path, sealed.commitment)
        assert (done.status, done.json) == (200, {"record": sealed.commitment.hex()})
        assert service.vault.list() == ()
        again = await erase(server, tmp_path, sealed.commitment)
        assert (again.status, again.json["code"]) == (410, "MC2110")


@pytest.mark.asyncio
async def test_only_operators_erase(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        assert service.vault is not None
        reply = await ask(server.url, "DELETE", f"/v1/vault/{sealed.commitment.hex()}")
        assert (reply.status, reply.json["code"]) == (401, "MC3008")
        assert service.vault.list() == (sealed.commitment,)


@pytest.mark.asyncio
async def test_a_record_whose_file_an_operator_removed_is_not_found(tmp_path: Path) -> None:
    async with holding(tmp_path) as (service, server, sealed):
        access = service.send(HOSPITAL, Access(sealed.commitment, "treatment", "x"))
        (tmp_path / "vault" / sealed.commitment.hex()).unlink()
        reply = await fetch(server, sealed.commitment, access.id)
        assert (reply.status, reply.json["code"]) == (404, "MC3004")


@pytest.mark.asyncio
async def test_what_is_no_sealed_record_is_not_stored(tmp_path: Path) -> None:
    async with holding(tmp_path) as (_, server, _sealed):
        bad = await put(server, tmp_path, b"hello")
        assert (bad.status, bad.json["code"]) == (400, "MC1001")


@pytest.mark.asyncio
@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer " + "0" * 64, "Basic eDp5", "Bearer é"])
async def test_only_operators_store(tmp_path: Path, header: str) -> None:
    async with holding(tmp_path) as (service, server, _):
        assert service.vault is not None
        before = service.vault.list()
        # The length alone would be over the limit: who may not store is refused before a body is read.
        headers = RAW | {"Authorization": header, "Content-Length": str(SEALED_SIZE_BYTES_MAX + 1)}
        reply = await ask(server.url, "POST", "/v1/vault", b"", headers)
        assert (reply.status, reply.json["code"]) == (401, "MC3008")
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert service.vault.list() == before


def test_the_token_is_kept_and_its_file_is_private(tmp_path: Path) -> None:
    token = tokens.load_or_create(tmp_path)
    assert tokens.load_or_create(tmp_path) == token == tokens.load(tmp_path)
    path = tmp_path / tokens.FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        tokens.load(tmp_path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(ConfigError, match="damaged"):
        tokens.load(tmp_path)
    with pytest.raises(ConfigError):
        tokens.load_or_create(tmp_path / "missing")
