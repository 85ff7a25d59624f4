"""What `medchain repair` finds and makes of a stopped node's data."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from ledger.errors import Code, ConfigError, Reject
from ledger.genesis import Parameters
from node import cli, keys
from node.home import DATA, open_home
from node.node import Node
from node.repair import Report, repair
from storage.chain import ChainStore
from storage.errors import Corruption, Locked, StorageError, VersionMismatch
from storage.shortening import MARK
from tests.node.test_disk_full import check_home, config_of, make_home, payment

PAYMENTS = 12
PARAMETERS = Parameters(window=1, checkpoint_interval=1, log_window=3, validity_heights_max=6, block_interval_ms=1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of a chain's only validator: nobody can give it back what it loses."""
    config = make_home(tmp_path / "home", PARAMETERS)

    async def scenario() -> None:
        async with Node(config) as node:
            for _ in range(PAYMENTS):
                assert (await node.submit(payment(node))).ok
            store = node.desk.store
            while (found := store.latest_checkpoint()) is None or found.height < store.tip.height:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())
    return tmp_path / "home"


def mended(home: Path) -> Report:
    return repair(config_of(home), lambda height, tip_height: None)


def tip_height(home: Path) -> int:
    with closing(open_home(config_of(home))) as opened:
        return opened.store.tip.height


def test_sound_data_are_left_as_they_are(home: Path) -> None:
    before = tip_height(home)
    assert mended(home) == Report((), None, 0, False)
    assert tip_height(home) == before
    assert not list((home / DATA).glob("damaged-*"))
    check_home(config_of(home), [])


@pytest.mark.parametrize("name", ["CURRENT", "*.ldb", "MANIFEST-*"])
def test_a_damaged_store_begins_again_and_its_key_waits(name: str, home: Path) -> None:
    height = tip_height(home)
    for path in (home / DATA / "db").glob(name):
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1 : len(data) // 2] + data[len(data) // 2 + 1 :])
    report = mended(home)
    assert len(report.damages) == 1
    assert report.aside is not None
    assert (report.aside / "db").is_dir()
    assert not report.muted
    assert 0 < report.refetch <= height
    with closing(open_home(config_of(home))) as opened:
        key = keys.load(config_of(home).key_path).public
        assert opened.store.tip.height == 0
        assert opened.store.refetching == report.refetch
        assert opened.store.is_muted(key)
        assert not opened.store.is_muted(key, for_good=True)
        assert opened.records(), "its votes are remembered"
    assert mended(home).refetch == report.refetch


def test_after_another_state_than_the_certified_one_all_that_it_vouched_for_is_fetched_before_it_signs(
    home: Path,
) -> None:
    """Its votes for wrong states are in its log. Executed rightly, those heights would differ from them, and it would
    stop again each time."""
    height = tip_height(home)
    with closing(open_home(config_of(home))) as opened:
        opened.store.quarantine(1, bytes(33))
    report = mended(home)
    assert report.refetch == height
    assert not report.muted
    assert mended(home).refetch == height, "and a second repair does not take that back"


def test_a_damaged_log_mutes_the_key_for_good(home: Path) -> None:
    height = tip_height(home)
    path = next(iter((home / DATA / "wal").iterdir()))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError):
        open_home(config_of(home))
    report = mended(home)
    assert (len(report.damages), report.refetch, report.muted) == (1, 0, True)
    assert report.aside is not None
    assert (report.aside / "wal" / path.name).read_bytes() == data
    assert tip_height(home) == height, "the store was sound"
    (home / DATA / "db" / "CURRENT").unlink()
    again = mended(home)
    assert again.muted
    assert again.aside is not None
    assert again.aside.name == "damaged-2"


@pytest.mark.parametrize("left", [0, 10, 0.5, -1])
def test_a_log_that_lost_its_end_mutes_the_key_for_good(left: float, home: Path) -> None:
    """Trap 20. At each length it is a sound log of a younger node, or of one whose last write was cut short."""
    height, path = tip_height(home), next(iter((home / DATA / "wal").iterdir()))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left) if isinstance(left, float) else left])
    with pytest.raises(Corruption, match="medchain repair"), closing(open_home(config_of(home))) as opened:
        opened.records()
    assert cli.run(["verify", "--home", str(home)]) == 1
    report = mended(home)
    assert (len(report.damages), report.refetch, report.muted) == (1, 0, True)
    assert report.aside is not None
    assert (report.aside / "wal" / path.name).exists()
    with closing(open_home(config_of(home))) as opened:
        assert opened.store.tip.height == height
        assert not opened.records()
    assert mended(home) == Report((), None, 0, True)


def test_killed_before_the_store_forgets_the_damaged_log_nothing_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: object) -> None:
        raise KeyboardInterrupt

    path = next(iter((home / DATA / "wal").iterdir()))
    path.write_bytes(path.read_bytes()[:-1])
    with monkeypatch.context() as patch:
        patch.setattr("node.repair.forget_log", killed)
        with pytest.raises(KeyboardInterrupt):
            mended(home)
    with pytest.raises(Corruption), closing(open_home(config_of(home))) as opened:
        opened.records()
    assert mended(home).muted
    with closing(open_home(config_of(home))) as opened:
        assert not opened.records()


def test_a_store_that_fell_back_is_kept_and_its_key_waits(home: Path) -> None:
    config = config_of(home)
    with closing(open_home(config)) as opened:
        height = opened.store.tip.height
        opened.wal.replay()
        opened.wal.append(MARK, height + 6, b"")
        opened.wal.flush()
    with closing(open_home(config)) as opened, pytest.raises(Corruption, match="medchain repair"):
        opened.records()
    report = mended(home)
    assert (report.aside, report.refetch, report.muted) == (None, height + 5, False)
    assert report.damages
    with closing(open_home(config)) as opened:
        assert opened.store.tip.height == height
        assert opened.records()


@pytest.mark.parametrize("content", [None, b"", b"\xff"])
def test_a_damaged_name_of_the_layout_is_written_again(content: bytes | None, home: Path) -> None:
    path = home / DATA / "FORMAT"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    report = mended(home)
    assert report.damages == ("FORMAT",)
    check_home(config_of(home), [])


def test_the_layout_of_later_software_is_left_alone(home: Path) -> None:
    (home / DATA / "FORMAT").write_text("7\n")
    with pytest.raises(VersionMismatch):
        mended(home)


def test_a_running_node_is_not_repaired(home: Path) -> None:
    with closing(open_home(config_of(home))), pytest.raises(Locked):
        mended(home)


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_not_even_its_layouts_name(content: bytes | None, home: Path) -> None:
    path = home / DATA / "FORMAT"
    with closing(open_home(config_of(home))):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(Locked):
            mended(home)
        assert (path.read_bytes() if path.exists() else None) == content
    assert mended(home).damages == ("FORMAT",)


def test_without_its_genesis_nothing_is_touched(home: Path) -> None:
    config_of(home).genesis_path.unlink()
    with pytest.raises(ConfigError):
        mended(home)
    assert not list((home / DATA).glob("damaged-*"))


def test_damage_found_by_a_reader_stops_the_node_from_signing_and_it_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of the disk may be no better. It stays up, so that somebody can ask what is the matter."""

    def damaged(*_: object) -> None:
        raise Corruption("a table")

    async def scenario() -> None:
        async with Node(config_of(home)) as node, aiohttp.ClientSession(node.api.url) as session:
            assert (await node.submit(payment(node))).ok
            with monkeypatch.context() as patch:
                patch.setattr(ChainStore, "block", damaged)
                async with session.get("/v1/blocks/1") as response:
                    assert response.status == 500
                    assert (await response.json())["code"] == Code.DATA_CORRUPT.label
            async with session.get("/v1/why") as response:
                why = await response.json()
            assert why["halted"]
            assert "has stopped signing" in why["sentence"]
            assert "medchain repair" in why["sentence"]
            height = node.desk.store.tip.height
            with pytest.raises(Reject) as refused:
                await node.submit(payment(node))
            assert refused.value.code is Code.NOT_ACCEPTING
            assert node.desk.store.tip.height == height
            assert not node.desk.failed.is_set()

    asyncio.run(scenario())


@pytest.mark.parametrize("moves", range(4))
def test_killed_between_two_moves_it_is_called_again_and_nothing_starts_on_half(
    moves: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With store and log both damaged: the key must never sign in between."""
    (home / DATA / "db" / "CURRENT").unlink()
    next(iter((home / DATA / "wal").iterdir())).unlink()
    left = [moves]
    rename = Path.rename

    def counted(source: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", counted)
        with pytest.raises(KeyboardInterrupt):
            mended(home)
    with pytest.raises(StorageError), closing(open_home(config_of(home))):
        pass
    report = mended(home)
    assert report.muted
    with closing(open_home(config_of(home))) as opened:
        key = keys.load(config_of(home).key_path).public
        assert opened.store.is_muted(key, for_good=True)
        assert not opened.records()
    assert not (home / DATA / "repairing").exists()
