"""A light client: what it believes after honest, late, lying and forked answers, over changes of validators."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import storage.bundles
from ledger.block import CheckpointCertificate
from ledger.codec import Value
from ledger.crypto import hash_bytes
from ledger.errors import ConfigError
from ledger.proofcheck import Refused, Trusted, decode, encode
from node import cli
from node.light import Forked, Memory
from storage.bundles import Bundler
from tests.node.api_service import GENESIS as API_GENESIS
from tests.node.api_service import HOSPITAL, running
from tests.node.test_history import EPOCHS, chain
from tests.storage.test_bundles import AT_GENESIS, certify
from tests.storage.test_chain import GENESIS, Node, busy, checkpoint_of, signatures

START = Memory(AT_GENESIS)


def grown() -> Node:
    """`EPOCHS` epochs are over, and the next has a checkpoint."""
    made = chain()
    while made.store.tip.checkpoint_height < made.store.tip.validators.first_height:
        busy(made, 1)
    certify(made)
    return made


@pytest.fixture(scope="module")
def node() -> Node:
    return grown()


def resealed(bundle: bytes, at: int, value: Value) -> bytes:
    content = list(decode(bundle)[:-1])
    content[at] = value
    return encode((*content, hash_bytes(encode(tuple(content)))))


def test_it_follows_over_changes_of_validators(node: Node) -> None:
    believed, proven = START.learn(Bundler(node.store).head())
    validators = node.store.tip.validators
    assert (believed.trusted.epoch, believed.trusted.keys) == (EPOCHS, validators.keys)
    assert believed.height == proven.height == node.store.tip.checkpoint_height
    again, _ = believed.learn(Bundler(node.store, since=EPOCHS).head())
    assert again == believed


def test_who_looks_rarely_comes_in_several_steps(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.bundles, "LINKS_MAX", 1)
    # Sets that share a quorum are skipped, so that here each link is one on purpose.
    monkeypatch.setattr(
        Bundler,
        "_farthest",
        lambda self, trusted, epoch: _one_link(self, trusted.epoch),  # type: ignore[misc]
    )
    believed, steps = START, []
    for _ in range(EPOCHS + 2):
        believed, _ = believed.learn(Bundler(node.store, since=believed.trusted.epoch).head())
        steps.append(believed.trusted.epoch)
    assert steps[:EPOCHS] == [1, 2, 3]
    assert believed.height == node.store.tip.checkpoint_height


def _one_link(bundler: Bundler, epoch: int) -> tuple[object, Value]:
    checkpoint, link = bundler._store.closing_checkpoint(epoch), bundler._store.link(epoch)
    assert checkpoint is not None
    assert link is not None
    return bundler._set(epoch + 1), (bundler._checkpoint(checkpoint), *link)


def test_a_node_that_is_behind_changes_nothing(node: Node) -> None:
    believed, _ = START.learn(Bundler(node.store).head())
    late, node = node, grown()
    while node.store.tip.checkpoint_height == believed.height:
        busy(node, 1)
    certify(node)
    further, _ = believed.learn(Bundler(node.store, since=EPOCHS).head())
    assert further.height > believed.height
    assert further.learn(Bundler(late.store, since=EPOCHS).head())[0] == further


def test_two_blocks_at_one_height_are_a_fork(node: Node) -> None:
    believed, _ = START.learn(Bundler(node.store).head())
    certificate = checkpoint_of(node.store, believed.height)
    header = node.store.header(believed.height)
    assert header is not None
    other = replace(header, time_ms=header.time_ms + 1)
    blank = replace(certificate, block_hash=other.hash(GENESIS.chain_id), signatures=())
    keys = node.store.tip.validators.keys
    signed = replace(blank, signatures=signatures(keys, blank.statement(GENESIS.chain_id)))
    bundle = Bundler(node.store, since=EPOCHS)
    claim = ("head", other.to_value(), bundle._checkpoint(signed))
    with pytest.raises(Forked):
        believed.learn(bundle._sealed([], claim))


def test_only_a_head_moves_it_on(node: Node) -> None:
    with pytest.raises(Refused):
        START.learn(Bundler(node.store).state(b"anything"))
    head = Bundler(node.store).head()
    claim = decode(head)[3]
    with pytest.raises(Refused):
        START.learn(resealed(head, 3, ("head", (*claim[1][:4], claim[1][4] + 1, claim[1][5]), claim[2])))
    checkpoint = CheckpointCertificate.from_value((*claim[2][:-1], ()))
    assert checkpoint.height == node.store.tip.checkpoint_height
    with pytest.raises(Refused):
        START.learn(resealed(head, 3, (*claim[:2], (*claim[2][:-1], ()))))


def test_what_it_remembers_survives_its_file(node: Node, tmp_path: Path) -> None:
    believed, _ = START.learn(Bundler(node.store).head())
    for memory in (START, believed):
        memory.write(tmp_path / "phone.json")
        assert Memory.read(tmp_path / "phone.json") == memory
    good = json.loads((tmp_path / "phone.json").read_text())
    changes: list[tuple[str, object]] = [("chain", "00"), ("keys", []), ("keys", ["00"]), ("keys", None)]
    changes += [("epoch", -1), ("height", "7"), ("block", "00")]
    for name, value in changes:
        (tmp_path / "bad.json").write_text(json.dumps(good | {name: value}))
        with pytest.raises(ConfigError):
            Memory.read(tmp_path / "bad.json")
    for text in ("", "[]", "nothing", "{" * 100_000):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ConfigError):
            Memory.read(tmp_path / "bad.json")


@pytest.mark.asyncio
async def test_the_command_follows_a_node_and_keeps_what_it_learnt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import asyncio

    memory, genesis = tmp_path / "phone.json", tmp_path / "genesis.json"
    genesis.write_text(API_GENESIS.to_json())

    async def light(url: str, *arguments: object) -> int:
        words = ["light", str(memory), "--api", url, "--jsonl", *map(str, arguments)]
        return await asyncio.to_thread(cli.run, words)

    async with running(tmp_path) as (service, server):
        from ledger.modules.payments import Transfer

        service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        service.commit(seal=True)
        assert await light(server.url) == 2
        assert "--genesis says what to begin with" in capsys.readouterr().err
        assert await light(server.url, "--genesis", genesis) == 0
        assert json.loads(capsys.readouterr().out)["height"] == 2
        service.send(HOSPITAL, Transfer("EUR", "maker", 6, "y"))
        service.commit(seal=True)
        assert await light(server.url) == 0
        assert json.loads(capsys.readouterr().out)["height"] > 2
    assert Memory.read(memory).height > 2


@pytest.mark.asyncio
async def test_the_command_says_what_it_believes_when_the_node_is_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It printed the height it remembered beside an older block's hash and root."""
    import asyncio

    memory, genesis = tmp_path / "phone.json", tmp_path / "genesis.json"
    genesis.write_text(API_GENESIS.to_json())
    block = hash_bytes(b"later")
    Memory(Trusted(API_GENESIS.chain_id, 0, API_GENESIS.validator_set.keys), 53, block).write(memory)
    async with running(tmp_path) as (service, server):
        from ledger.modules.payments import Transfer

        service.send(HOSPITAL, Transfer("EUR", "maker", 5, "x"))
        service.commit(seal=True)
        words = ["light", str(memory), "--api", server.url]
        assert await asyncio.to_thread(cli.run, [*words, "--jsonl"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert (shown["height"], shown["block_hash"], shown["node_is_behind_at"]) == (53, block.hex(), 2)
        assert "state_root" not in shown
        genesis.write_text(replace(API_GENESIS, name="another").to_json())
        assert await asyncio.to_thread(cli.run, [*words, "--genesis", str(genesis)]) == 2
        assert "another chain" in capsys.readouterr().err
