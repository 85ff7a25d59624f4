"""Joining by a snapshot over real connections: under load, past liars and the dead, cut off and gone on with."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger.codec import Value, encode
from ledger.crypto import KeyPair
from ledger.genesis import Genesis, Parameters, development_key
from ledger.modules.payments import Transfer
from ledger.stateproof import bucket_of, hash_key
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import join as joining
from node import keys
from node.cluster.plan import development_modules
from node.config import P2P, Api, NodeConfig, Peer, Storage
from node.config import Log as LogSettings
from node.home import initialise, open_home, read_genesis
from node.join import CannotJoin, Join, Progress, join
from node.logs import make_logger
from node.node import Node
from node.snapshots import BUCKETS, EPOCHS, LEAVES, OFFER, Question, SnapshotServer
from p2p.frames import Kind
from storage import schema, snapshots
from storage.assembly import Assembly
from storage.errors import AlreadyInitialised
from storage.leveldb import LevelDB
from storage.memory import MemoryKeyValue
from storage.verification import verify_store

PARAMETERS = Parameters(window=1, checkpoint_interval=2, log_window=4, validity_heights_max=20, block_interval_ms=1)
EVERY = 10
BLOCKS = 40
WAIT_S = 60
CUT = 20
LOG = make_logger("error", "text")

Answer = Callable[[SnapshotServer, Question], Awaitable[Value]]
honest: Answer = SnapshotServer._answer


@dataclass
class Chain:
    """A validator and some followers in this process, and the configuration of who is about to join."""

    nodes: list[Node]
    joiner: NodeConfig
    key: KeyPair
    stopping: asyncio.Event
    paid: list[Transaction]

    @property
    def validator(self) -> Node:
        return self.nodes[0]

    def key_of(self, index: int) -> bytes:
        return self.nodes[index].key.public

    async def pay(self) -> None:
        node, operation = self.validator, Transfer("CNY", "pharmacy", 1, "x" * 64)
        valid_until = node.desk.store.tip.height + 10
        nonce = secrets.token_bytes(NONCE_SIZE_BYTES)
        key, chain_id, fields = development_key("hospital"), node.desk.genesis.chain_id, operation.to_fields()
        tx = Transaction.create(key, chain_id, operation.NAME, fields, nonce=nonce, valid_until=valid_until)
        assert (await node.submit(tx)).ok
        self.paid.append(tx)

    async def pay_on(self) -> None:
        """Load, until told to stop."""
        while not self.stopping.is_set():
            await self.pay()
            await asyncio.sleep(0.01)


def make_home(home: Path, genesis: Genesis | None, key: KeyPair, known: list[KeyPair], peers: list[Peer]) -> NodeConfig:
    home.mkdir()
    config = NodeConfig(
        home=home,
        p2p=P2P(port=0, known_keys=tuple(each.public.hex() for each in known), peers=tuple(peers)),
        api=Api(port=0),
        log=LogSettings(level="error"),
        storage=Storage(snapshot_every=EVERY),
    )
    keys.save(config.key_path, key)
    if genesis is None:
        time_ms, modules = time.time_ns() // 1_000_000, development_modules()
        genesis = Genesis("joined", time_ms, (key.public,), modules, development=True, parameters=PARAMETERS)
    config.genesis_path.write_text(genesis.to_json(), "utf-8")
    initialise(config)
    return config


@asynccontextmanager
async def running(folder: Path, followers: int = 0) -> AsyncIterator[Chain]:
    pairs = [keys.generate() for _ in range(2 + followers)]
    first = make_home(folder / "validator", None, pairs[0], pairs[1:], [])
    async with Node(first) as validator:
        genesis = validator.desk.genesis
        nodes = [validator]
        try:
            for number in range(followers):
                peers = [peer_of(validator)]
                config = make_home(folder / f"follower-{number}", genesis, pairs[2 + number], [pairs[1]], peers)
                node = Node(config)
                await node.start()
                nodes.append(node)
            joiner = make_home(folder / "joiner", genesis, pairs[1], [], [peer_of(node) for node in nodes])
            chain = Chain(nodes, joiner, pairs[1], asyncio.Event(), [])
            for _ in range(BLOCKS):
                await chain.pay()
            async with asyncio.timeout(WAIT_S):
                for node in nodes:
                    while not offers_something(node) or node.desk.store.tip.height < BLOCKS:
                        await asyncio.sleep(0.01)
            yield chain
        finally:
            for node in nodes[1:]:
                await node.stop()


def peer_of(node: Node) -> Peer:
    return Peer(key=node.key.public.hex(), host="127.0.0.1", port=node.transport.port)


def offers_something(node: Node) -> bool:
    return any(node.desk.store.checkpoint(height) for height in node.snapshots.heights)


@pytest.fixture
def all_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A joiner asks nobody before it is connected to all, so that which of them it asks is not a matter of luck."""
    ready = joining.Join._ready
    met: set[bytes] = set()

    def all_or_none(join: Join) -> list[Any]:
        met.update(join._peers)
        return ready(join) if len(met) == len(join._config.p2p.peers) else []

    monkeypatch.setattr(joining.Join, "_ready", all_or_none)


async def joined(chain: Chain) -> tuple[int, Progress]:
    async with asyncio.timeout(WAIT_S):
        height, _, progress = await join(chain.joiner, chain.key, LOG)
        return height, progress


async def check_that_it_works(chain: Chain) -> None:
    """The home is sound, its node catches up and knows what was paid lately."""
    opened = open_home(chain.joiner)
    try:
        assert opened.store.pruned > 0
        verify_store(opened.kv, opened.store, opened.executor)
    finally:
        opened.close()
    assert not (chain.joiner.home / joining.JOINING).exists()
    async with Node(chain.joiner) as node:
        async with asyncio.timeout(WAIT_S):
            while node.desk.store.tip.height < chain.validator.desk.store.tip.height:
                await asyncio.sleep(0.02)
        await chain.pay()
        async with asyncio.timeout(WAIT_S):
            while node.desk.store.receipt(chain.paid[-1].id) is None:
                await asyncio.sleep(0.02)
        store, other = node.desk.store, chain.validator.desk.store
        assert store.state_root(store.tip.checkpoint_height) == other.state_root(store.tip.checkpoint_height)


@pytest.mark.asyncio
async def test_a_node_joins_while_the_chain_is_under_load_and_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path, followers=1) as chain:
        load = asyncio.create_task(chain.pay_on())
        height, progress = await joined(chain)
        assert height >= BLOCKS - EVERY - 1
        assert progress.size_bytes > 0
        assert not progress.liars
        chain.stopping.set()
        await load
        await check_that_it_works(chain)


def lying(what: str) -> Answer:
    async def answer(server: SnapshotServer, question: Question) -> Value:
        value = await honest(server, question)
        if question.what != what or value is None or value == ():
            return value
        if isinstance(value, bytes):
            return bytes([value[0] ^ 1]) + value[1:]
        assert isinstance(value, tuple)
        if what == BUCKETS:
            return tuple((*bucket, b"more", b"money") for bucket in value)  # type: ignore[misc]
        return (*value[:-1], b"another")

    return answer


@pytest.mark.asyncio
@pytest.mark.usefixtures("all_asked")
@pytest.mark.parametrize("what", [OFFER, LEAVES, BUCKETS, "blocks"])
async def test_a_liar_is_named_and_the_others_give_the_rest(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 32."""
    monkeypatch.setattr(snapshots, "BLOCKS_PER_PIECE_MAX", 1)
    async with running(tmp_path, followers=2) as chain:
        liar = chain.nodes[2].snapshots
        lie = lying(what)
        asked = asyncio.Event()

        async def answer(server: SnapshotServer, question: Question) -> Value:
            if server is liar:
                if question.what == what:
                    asked.set()
                return await lie(server, question)
            if question.what == what and what in (LEAVES, BUCKETS):
                await asked.wait()  # the honest would give all; blocks are asked for one after the other, in turn
            return await honest(server, question)

        monkeypatch.setattr(SnapshotServer, "_answer", answer)
        _, progress = await joined(chain)
        # Of several who offer the same, the first is believed, once it has proved it.
        assert set(progress.liars) == {chain.key_of(2)} or (what == OFFER and not progress.liars)
        await check_that_it_works(chain)


@pytest.mark.asyncio
@pytest.mark.usefixtures("all_asked")
async def test_a_peer_that_dies_or_never_answers_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "ANSWER_S_MAX", 0.5)
    async with running(tmp_path, followers=2) as chain:
        silent, dying = chain.nodes[1].snapshots, chain.nodes[2]
        dead: list[asyncio.Task[None]] = []

        async def answer(server: SnapshotServer, question: Question) -> Value:
            if question.what in (EPOCHS, OFFER):
                return await honest(server, question)
            if server is silent:
                await asyncio.sleep(3_600)
            if server is dying.snapshots and not dead:
                dead.append(asyncio.create_task(dying.stop()))
                await asyncio.sleep(3_600)
            return await honest(server, question)

        monkeypatch.setattr(SnapshotServer, "_answer", answer)
        _, progress = await joined(chain)
        assert set(progress.peers) == {chain.key_of(0)}
        assert not progress.liars
        await asyncio.gather(*dead)
        await check_that_it_works(chain)


@pytest.mark.asyncio
async def test_when_the_peers_move_on_so_does_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 31."""
    async with running(tmp_path) as chain:
        server, asked = chain.validator.snapshots, 0

        async def answer(server_: SnapshotServer, question: Question) -> Value:
            nonlocal asked
            asked += question.what == BUCKETS
            if asked == 20:
                asked += 1
                before = max(server.heights)
                while max(server.heights) == before or not offers_something(chain.validator):
                    await chain.pay()
                for height in server.heights[:-1]:
                    server._kept.pop(height).close()
                while chain.validator.desk.store.checkpoint(max(server.heights)) is None:
                    await asyncio.sleep(0.01)
            return await honest(server_, question)

        monkeypatch.setattr(SnapshotServer, "_answer", answer)
        first = max(height for height in server.heights if chain.validator.desk.store.checkpoint(height))
        height, progress = await joined(chain)
        assert height > first
        assert progress.targets == 2
        await check_that_it_works(chain)


def buckets_of(chain: Chain) -> set[int]:
    return {bucket_of(hash_key(key)) for key, _ in chain.validator.desk.store.state_entries()}


@pytest.mark.asyncio
async def test_cut_off_it_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 32."""
    async with running(tmp_path) as chain:
        monkeypatch.setattr(joining, "BUCKETS_PER_PIECE", 1)
        asked, cut = 0, asyncio.Event()

        async def answer(server: SnapshotServer, question: Question) -> Value:
            nonlocal asked
            asked += question.what == BUCKETS
            if asked == CUT:
                cut.set()
            return await honest(server, question)

        monkeypatch.setattr(SnapshotServer, "_answer", answer)
        first = asyncio.create_task(join(chain.joiner, chain.key, LOG))
        await asyncio.wait_for(cut.wait(), WAIT_S)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (chain.joiner.home / joining.JOINING).is_dir()
        left, asked = len(buckets_of(chain)) - asked, CUT
        await joined(chain)
        assert asked - CUT <= left + 2 * joining.IN_FLIGHT_PER_PEER
        await check_that_it_works(chain)


@pytest.mark.asyncio
async def test_who_has_data_does_not_join(tmp_path: Path) -> None:
    async with running(tmp_path) as chain:
        await joined(chain)
        with pytest.raises(AlreadyInitialised):
            await joined(chain)
        await check_that_it_works(chain)


@pytest.mark.asyncio
async def test_without_peers_or_snapshots_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "PATIENCE_S", 3.0)
    monkeypatch.setattr(joining, "AGAIN_S", 0.05)
    async with running(tmp_path) as chain:
        chain.validator.snapshots.close()
        with pytest.raises(CannotJoin, match="offers a snapshot"):
            await joined(chain)
        lonely = chain.joiner.model_copy(update={"p2p": P2P(port=0)})
        with pytest.raises(CannotJoin, match=r"p2p\.peers"):
            await join(lonely, chain.key, LOG)


@pytest.mark.asyncio
async def test_an_offer_of_an_epoch_that_its_sender_cannot_lead_to_names_him(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 32. Looked at first for its height, it would be looked at for ever."""
    async with running(tmp_path, followers=1) as chain:
        liar = chain.nodes[1].snapshots

        async def answer(server: SnapshotServer, question: Question) -> Value:
            value = await honest(server, question)
            if server is not liar or question.what != OFFER or value is None:
                return value
            (epoch, height, *rest), header, top = value  # type: ignore[misc]
            return (epoch + 1, height + 1_000, *rest), header, top

        async def none(server: SnapshotServer, question: Question) -> Value:
            return None if server is not liar and question.what == OFFER else await answer(server, question)

        def told(progress: Progress) -> None:
            if progress.liars and "none offers" in progress.waits_for:
                raise CannotJoin("enough")

        monkeypatch.setattr(joining, "AGAIN_S", 0.05)
        monkeypatch.setattr(SnapshotServer, "_answer", none)
        genesis = chain.validator.desk.genesis
        attempt = Join(chain.joiner, genesis, chain.key, LOG, told)
        with pytest.raises(CannotJoin, match="enough"):
            await attempt.run(Assembly(MemoryKeyValue(), genesis))
        assert set(attempt.progress.liars) == {chain.key_of(1)}
        monkeypatch.setattr(SnapshotServer, "_answer", answer)
        await joined(chain)
        await check_that_it_works(chain)


@pytest.mark.asyncio
async def test_it_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "PATIENCE_S", 0.3)
    monkeypatch.setattr(joining, "AGAIN_S", 0.05)
    heard: list[str] = []
    async with running(tmp_path) as chain:
        stranger, genesis = keys.generate(), chain.validator.desk.genesis
        alone = make_home(tmp_path / "stranger", genesis, stranger, [], [peer_of(chain.validator)])
        with pytest.raises(CannotJoin, match=stranger.public.hex()):
            await join(alone, stranger, LOG, lambda progress: heard.append(progress.waits_for))
        assert heard
        assert all("no peer is connected" in said for said in heard)
        heard.clear()
        chain.validator.snapshots.close()
        monkeypatch.setattr(joining, "PATIENCE_S", WAIT_S)  # the connection takes its time

        def told(progress: Progress) -> None:
            heard.append(progress.waits_for)
            if "none offers" in progress.waits_for:
                raise CannotJoin("enough")

        with pytest.raises(CannotJoin, match="enough"):
            await join(chain.joiner, chain.key, LOG, told)
        assert heard[-1].startswith("1 peers are connected")


def test_the_time_left_counts_what_blocks_take_too() -> None:
    """Nearly all bytes are theirs: with the state alone it said seconds when it was minutes."""
    progress = Progress(height=9, buckets_done=joining.BUCKETS - 100, blocks_left=900, size_bytes=1_100_000)
    progress.started_s = time.monotonic() - 11
    progress.taken_bytes.update({BUCKETS: 100_000, "blocks": 1_000_000})
    progress.taken[BUCKETS] = 100
    assert progress.left_s is None, "of blocks none has come yet"
    progress.taken["blocks"] = 100
    assert progress.left_s == pytest.approx(9_100_000 / 100_000, rel=0.05)
    progress.blocks_left, progress.buckets_done = 0, joining.BUCKETS
    assert progress.left_s == 0


@pytest.mark.asyncio
async def test_what_each_kind_took_is_counted(tmp_path: Path) -> None:
    async with running(tmp_path) as chain:
        _, progress = await joined(chain)
        assert progress.taken["blocks"] == PARAMETERS.validity_heights_max
        assert progress.taken[BUCKETS] == len(buckets_of(chain))
        assert 0 < progress.taken_bytes["blocks"] + progress.taken_bytes[BUCKETS] < progress.size_bytes
        assert progress.waits_for == ""
        assert progress.left_s == 0


@pytest.mark.asyncio
async def test_a_malformed_question_costs_the_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as chain:
        blamed: list[Any] = []
        chain.validator.transport.misbehaved = lambda key, fault: blamed.append(key)  # type: ignore[method-assign]
        for payload in (b"", b"\x00", b"\x95\x01\xa3abc\x00\x00\xff", Question(1, "x").encode() + b"\x00"):
            chain.validator._on_snapshot_frame(chain.key.public, Kind.SNAPSHOT_REQUEST, payload)
        assert len(blamed) == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("keep_key", [False, True])
async def test_a_validator_that_lost_its_data_signs_nothing_after_it_joined(keep_key: bool, tmp_path: Path) -> None:
    """Trap 20. A snapshot does not tell what its key signed. It proposed twice for one view and height."""
    async with running(tmp_path, followers=1) as chain:
        lost, key = chain.validator.config, chain.validator.key
        await chain.validator.stop()
        shutil.rmtree(lost.home / "data")
        again = lost.model_copy(update={"p2p": P2P(port=0, peers=(peer_of(chain.nodes[1]),))})
        async with asyncio.timeout(WAIT_S):
            _, signs, _ = await join(again, key, LOG, keep_key=keep_key)
        assert signs is keep_key
        opened = open_home(again)
        try:
            assert opened.store.is_muted(key.public, for_good=True) is not keep_key
        finally:
            opened.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("step", ["complete", "take_place"])
async def test_killed_at_its_end_it_goes_on_where_it_stopped(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 32. Newer software does, too."""
    async with running(tmp_path) as chain:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(joining, step, killed)
            with pytest.raises(KeyboardInterrupt):
                await joined(chain)
        monkeypatch.setattr(joining.Join, "run", killed)  # nothing is fetched again
        with closing(LevelDB(chain.joiner.home / joining.JOINING / "db")) as kv:
            kv.write([(schema.FORMAT_KEY, b"medchain/store/4")])
        await joined(chain)
        await check_that_it_works(chain)


def test_an_answer_to_no_question_is_not_decoded_and_names_its_sender(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def must_not_decode(*_: Any, **__: Any) -> Value:
        raise AssertionError("decoded")

    key, liar = keys.generate(), keys.generate().public
    config = make_home(tmp_path / "home", None, key, [], [])
    attempt = Join(config, read_genesis(config.genesis_path), key, LOG)
    attempt._on_peer_up(liar)
    monkeypatch.setattr(joining, "decode", must_not_decode)
    attempt._on_frame(liar, Kind.SNAPSHOT_RESPONSE, encode((1, None)))
    assert attempt.progress.liars == {liar: "an answer to no question"}
