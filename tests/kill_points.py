"""Killed at every durable write: `python -m tests.kill_points` (or `make killpoints`). Status 1 if something is lost.

The points are found in the source: each statement of the storage and of the vault that changes a file, makes it
durable, or changes names in a folder. A whole life of one node (made, started, paid through, its disk full, stopped,
backed up, restored, a record put into the vault and erased) is run and killed with SIGKILL just before and just after
each of them, at several of the times it happens; then lived again. After that:

- every transaction whose commit was told to its client is there, once: the chain is executed again from genesis to the
  same roots;
- no vote contradicts another of the same key in any log seen;
- the vault holds what it acknowledged, and nothing that it was told to erase; backup, copy and keys are whole.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from ledger.crypto import KeyPair
from ledger.errors import ConfigError
from ledger.genesis import Genesis, development_key
from ledger.modules.payments import Transfer
from ledger.proofcheck import Trusted
from ledger.transaction import NONCE_SIZE_BYTES, Transaction
from node import keys
from node.api import tokens
from node.cluster.plan import development_modules
from node.config import P2P, Api, Log, NodeConfig
from node.home import DATA, initialise, open_home
from node.light import Memory
from node.node import Node
from node.vault import Erased, Vault, seal
from storage import archive
from storage.bundles import Bundler
from storage.datadir import DataDir
from storage.errors import AlreadyInitialised, DiskFull, NotInitialised
from storage.files import DRAFT_SUFFIX, replace, written
from storage.leveldb import LevelDB
from storage.verification import verify_chain
from storage.wal import WriteAheadLog
from tests.live_kills import Record

ROOT = Path(__file__).parents[1]
PAYMENTS = 12
SEGMENT_SIZE_BYTES = 2048  # so that the log is rotated and shortened all the time
WRITE_BUFFER_SIZE_BYTES = 64 * 1024  # and tables are written
LIFE_S_MAX = 60
READER = KeyPair.from_seed(bytes(32))  # of the records in the vault

# Where data lies that must survive. Files elsewhere are listed below, with why nothing is lost with them.
ROOMS: Final = ("storage", "node/vault.py")
ELSEWHERE: Final = {
    "node/room.py": "a trial file that holds nothing",
    "node/cluster/runner.py": "logs of a local cluster's processes",
    "node/cluster/plan.py": "a local cluster's folder: begun again when it is not whole",
    "node/cluster/control.py": "a socket's name",
    "node/demo/__init__.py": "the demonstration's own folder",
    "node/cli/start.py": "genesis and settings, written before the node's data are made: `medchain init` again",
    "node/home.py": "puts other data in the place of a new chain's (tests/node/test_stopped_home.py), and of no other",
    "node/cli/archive.py": "a draft that the next attempt makes anew (tests/node/test_stopped_home.py)",
    "node/cli/proofs.py": "a bundle, which can be made again",
    "node/join.py": "a draft that the next attempt goes on with (tests/node/test_join.py)",
    "node/repair.py": "a draft, and moves that a second call goes on with (tests/node/test_repair.py)",
    "p2p/tls.py": "a certificate for the library's sake, removed at once",
}
_OS: Final = {"write", "pwrite", "fsync", "fdatasync", "ftruncate", "truncate", "link", "unlink", "rename", "replace"}
_PATH: Final = {"unlink", "rename", "mkdir", "rmdir", "write_bytes", "write_text", "write_batch", "rmtree", "touch"}
_FILES: Final = {"file", "opened", "draft"}  # names of open files and of paths in our code


class Lost(Exception):
    """Something that must survive a kill did not."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One statement that changes the disk."""

    file: str
    function: str
    first: int  # line
    last: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.first} {self.function}: {self.what}"


def points(root: Path = ROOT) -> list[Point]:
    """All of them in the rooms that matter, by file and line."""
    files = [path for room in ROOMS for path in ([root / room] if room.endswith(".py") else (root / room).glob("*.py"))]
    return sorted(point for path in files for point in points_in(path, root))


def points_in(path: Path, root: Path = ROOT) -> Iterator[Point]:
    """Those of one file."""

    def walk(node: ast.AST, function: str, statement: ast.stmt | None) -> Iterator[Point]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            function = f"{function}.{node.name}" if function else node.name
        if isinstance(node, ast.stmt):
            statement = node
        what = _changes(node)
        if what is not None and statement is not None:
            last = statement.end_lineno or statement.lineno
            yield Point(path.relative_to(root).as_posix(), function, statement.lineno, last, what)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function, statement)

    return walk(ast.parse(path.read_text()), "", None)


def _changes(node: ast.AST) -> str | None:
    """What a call does to the disk; None if nothing."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    owner, name = ast.unparse(node.func.value), node.func.attr
    if owner == "os":
        return f"os.{name}" if name in _OS else None
    if name in _PATH or (name in ("write", "replace") and owner in _FILES):
        return f"{owner}.{name}"
    return None


# Counting and killing


class Tracer:
    """Sees each time a point is come by; at the one asked for, the process kills itself."""

    def __init__(self, found: list[Point], victim: Point | None = None, nth: int = 0, after: bool = False) -> None:
        self.counts: Counter[Point] = Counter()
        self._victim, self._nth, self._after = victim, nth, after
        self._by_function: dict[tuple[str, str], list[Point]] = {}
        for point in found:
            self._by_function.setdefault((str(ROOT / point.file), point.function), []).append(point)
        self._known: dict[CodeType, list[Point] | None] = {}
        self._inside: dict[int, set[Point]] = {}

    def install(self) -> None:
        threading.settrace(self._on_call)
        sys.settrace(self._on_call)

    def _on_call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if code not in self._known:
            self._known[code] = self._by_function.get((code.co_filename, _qualified(code)))
        return self._on_line if self._known[code] else None

    def _on_line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        inside = self._inside.setdefault(id(frame), set())
        for point in self._known[frame.f_code] or ():
            is_there = event in ("line", "exception") and point.first <= frame.f_lineno <= point.last
            if is_there and point not in inside:
                inside.add(point)
                self.counts[point] += 1
                self._look(point, after=False)
            elif not is_there and point in inside:
                inside.discard(point)
                self._look(point, after=True)
        if event == "return":
            del self._inside[id(frame)]
        return self._on_line

    def _look(self, point: Point, *, after: bool) -> None:
        if point == self._victim and after == self._after and self.counts[point] == self._nth:
            os.kill(os.getpid(), signal.SIGKILL)


def _qualified(code: CodeType) -> str:
    return code.co_qualname.replace(".<locals>", "")


# A life


def config_of(home: Path) -> NodeConfig:
    return NodeConfig(home=home, p2p=P2P(port=0), api=Api(port=0), log=Log(level="error"))


def live(home: Path, tell: Callable[[str], None]) -> None:
    """All that happens to one node's disk, begun or gone on with; `tell` hears what was acknowledged."""
    config = config_of(home)
    _make(config)
    _tear(home / DATA / "wal")
    asyncio.run(_pay(config, tell))
    _keep_records(home / DATA / "vault", tell)
    _fill_disks(home)
    _back_up(config, home / "copy")


def _make(config: NodeConfig) -> None:
    try:
        key = keys.load(config.key_path)
    except ConfigError:
        if config.key_path.exists():
            raise Lost("a key file that cannot be read") from None
        key = keys.generate()
        keys.save(config.key_path, key)
    if not config.genesis_path.exists():
        genesis = Genesis("killed", 1_000, (key.public,), development_modules(), development=True)
        draft = config.genesis_path.with_suffix(".draft")
        draft.write_text(genesis.to_json(), "utf-8")
        draft.rename(config.genesis_path)
    _if_not_whole(config.home / DATA, lambda: initialise(config))


def _if_not_whole(folder: Path, make: Callable[[], object]) -> None:
    """Make a data folder, where one was only begun in place of it."""
    try:
        DataDir(folder).close()
    except NotInitialised:
        shutil.rmtree(folder, ignore_errors=True)
        make()
    with suppress(AlreadyInitialised):
        make()
        raise Lost("a node's data made over those of another")


def _tear(folder: Path) -> None:
    """What a power cut leaves of the write-ahead log: a torn record, and a segment that was only begun."""
    last = max(folder.glob("*.wal"))
    with last.open("ab") as file:
        file.write(b"torn")
    WriteAheadLog(folder, create=False).close()
    last = max(folder.glob("*.wal"))
    (folder / f"{int(last.stem) + 1:016d}.wal").touch(mode=0o600)


def _make_holes(path: Path) -> None:
    """What a power cut leaves of a database: a hole in a log, and another log behind it. The next life does not make it
    again, and finds what this one left."""
    if not path.exists():
        draft = path.with_name("torn-draft")
        shutil.rmtree(draft, ignore_errors=True)
        with closing(LevelDB(draft, create=True)) as kv:
            for number in range(10):
                kv.write([(b"%d" % number, os.urandom(4_000))])
        log = max(draft.glob("*.log"))
        found = log.read_bytes()
        log.write_bytes(found[:10_000] + bytes(10_000) + found[20_000:])
        log.with_name(f"{int(log.stem) + 1:06d}.log").touch()
        draft.rename(path)
    with closing(LevelDB(path)) as kv:
        if kv.get(b"0") is None:
            raise Lost("what was written before a hole")


async def _pay(config: NodeConfig, tell: Callable[[str], None]) -> None:
    async with Node(config) as node:
        tokens.load(config.home)
        for _ in range(PAYMENTS):
            operation = Transfer("CNY", "pharmacy", 1, "x" * 64)
            fields, valid_until = operation.to_fields(), node.desk.store.tip.height + 100
            key, chain_id = development_key("hospital"), node.desk.genesis.chain_id
            nonce = os.urandom(NONCE_SIZE_BYTES)
            tx = Transaction.create(key, chain_id, operation.NAME, fields, nonce=nonce, valid_until=valid_until)
            if not (await node.submit(tx)).ok:
                raise Lost("a payment was refused")
            tell(f"paid {tx.id.hex()}")
        async with asyncio.timeout(LIFE_S_MAX):
            store = node.desk.store
            while (found := store.latest_checkpoint()) is None or found.height < store.tip.height:
                await asyncio.sleep(0.01)


def _keep_records(folder: Path, tell: Callable[[str], None]) -> None:
    (folder / f"left{DRAFT_SUFFIX}").touch()  # by a write that never finished
    vault = Vault(folder)
    sealed = [seal(os.urandom(32), media_type="text/plain", recipients=[READER.public]) for _ in range(2)]
    for each in sealed:
        tell(f"put {vault.put(each).hex()}")
    tell(f"erasing {sealed[0].commitment.hex()}")
    vault.erase(sealed[0].commitment)
    tell(f"erased {sealed[0].commitment.hex()}")


def _fill_disks(home: Path) -> None:
    """A disk that is full as a log writes a record or begins a segment, and as small files are written; and a database
    whose older logs are on their way into tables when it syncs."""
    log = WriteAheadLog(home / "other-wal")
    sound_pwrite, sound_fsync = os.pwrite, os.fsync
    for is_header in (False, True):

        def full(descriptor: int, data: bytes, offset: int, is_header: bool = is_header) -> int:
            if (offset == 0) == is_header:
                raise OSError(errno.ENOSPC, "No space left on device")
            return sound_pwrite(descriptor, data, offset)

        def no_room(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for _ in range(2):
            log.append(1, 1, bytes(SEGMENT_SIZE_BYTES - 200))
        os.pwrite = full  # type: ignore[assignment]
        with suppress(DiskFull):
            log.flush()
        os.pwrite = sound_pwrite
        log.flush()
        os.fsync = no_room  # type: ignore[assignment]
        with suppress(OSError):
            replace(home / "small", b"data")
        os.fsync = sound_fsync
        (home / "in-the-way").mkdir(exist_ok=True)
        with suppress(OSError):
            replace(home / "in-the-way", b"data")
        with suppress(OSError), written(home / "in-the-way") as file:
            file.write(b"data")
    log.close()
    WriteAheadLog(home / "other-wal", create=False).close()
    _make_holes(home / "torn-db")
    shutil.rmtree(home / "other-db", ignore_errors=True)
    with closing(LevelDB(home / "other-db", create=True)) as kv:
        for number in range(300):
            kv.write([(b"%d" % number, os.urandom(WRITE_BUFFER_SIZE_BYTES // 2))], sync=number % 3 == 2)


def _back_up(config: NodeConfig, copy: Path) -> None:
    copy.mkdir(exist_ok=True)
    home = open_home(config)
    executor, key = home.executor, keys.load(config.key_path).public
    try:
        with written(copy / "backup.tar") as stream:
            manifest = archive.backup(home.folder, home.kv, home.store, stream, with_vault=True)
        genesis = home.genesis.validator_set
        path = config.home / "light.json"
        memory = Memory.read(path) if path.exists() else Memory(Trusted(manifest.chain_id, 0, genesis.keys))
        memory.learn(Bundler(home.store).head())[0].write(path)
    finally:
        home.close()
    shutil.rmtree(copy / DATA, ignore_errors=True)
    with (copy / "backup.tar").open("rb") as stream:
        archive.restore(stream, copy / DATA, executor, key, with_log=True)


# What must be so afterwards


class Told:
    """What was acknowledged in one home's lives."""

    def __init__(self) -> None:
        self.paid: list[bytes] = []
        self.put: dict[bytes, None] = {}
        self.erased: dict[bytes, None] = {}
        self.votes = Record()

    def hear(self, line: str) -> None:
        verb, _, value = line.partition(" ")
        data = bytes.fromhex(value)
        match verb:
            case "paid":
                self.paid.append(data)
            case "put":
                self.put[data] = None
            case "erasing":
                self.put.pop(data)  # either way from now on
            case "erased":
                self.erased[data] = None

    def read_log(self, home: Path) -> None:
        if (home / DATA / "FORMAT").exists():
            self.votes.read_folder("node", home / DATA / "wal")

    def check(self, home: Path) -> None:
        opened = open_home(config_of(home))
        with closing(opened):
            for tx_id in self.paid:
                receipt = opened.store.receipt(tx_id)
                if receipt is None or not receipt.ok:
                    raise Lost(f"transaction {tx_id.hex()} was acknowledged and is not there")
            verify_chain(opened.kv, opened.store, opened.executor)
            tip = opened.store.tip
        vault = Vault(home / DATA / "vault")
        held = vault.list()
        if any(commitment not in held for commitment in self.put):
            raise Lost("a record that the vault had acknowledged")
        for commitment in self.erased:
            with suppress(Erased):
                vault.get(commitment)
                raise Lost("a record was erased and is held")
        with DataDir(home / "copy" / DATA) as folder, closing(LevelDB(folder.db)):
            pass
        memory = Memory.read(home / "light.json")
        if memory.height > tip.height:
            raise Lost("the light client knows more than the chain holds")


def forked(work: Callable[[Callable[[str], None]], None], told: Told) -> bool:
    """Do it in a process of its own; whether that was killed. Lost if it failed. The parent opens no database itself:
    LevelDB's thread would not be there in its children."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _be_child(work, writing)
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            if line.endswith("\n"):
                told.hear(line.strip())
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    if status:
        raise Lost("a life came to no end, or to a bad one; see above")
    return False


def _be_child(work: Callable[[Callable[[str], None]], None], writing: int) -> None:
    status = 1
    try:
        signal.alarm(LIFE_S_MAX)
        assert WriteAheadLog.__init__.__kwdefaults__ is not None
        assert LevelDB.__init__.__kwdefaults__ is not None
        WriteAheadLog.__init__.__kwdefaults__["segment_bytes_max"] = SEGMENT_SIZE_BYTES
        LevelDB.__init__.__kwdefaults__["write_buffer_bytes"] = WRITE_BUFFER_SIZE_BYTES
        work(lambda line: void(os.write(writing, f"{line}\n".encode())))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def void(_: object) -> None:
    pass


def count(folder: Path, found: list[Point]) -> dict[Point, int]:
    """How often each is come by in one life."""
    home, counted = folder / "counted", folder / "counts.json"
    home.mkdir()

    def work(tell: Callable[[str], None]) -> None:
        tracer = Tracer(found)
        tracer.install()
        live(home, tell)
        sys.settrace(None)
        counted.write_text(json.dumps({str(point): count for point, count in tracer.counts.items()}))

    forked(work, Told())
    shutil.rmtree(home)
    counts = json.loads(counted.read_text())
    return {point: counts.get(str(point), 0) for point in found}


def kill(folder: Path, found: list[Point], point: Point, nth: int, after: bool) -> bool:
    """Kill a life there, live again, check; whether it was killed at all (a life is not always the same)."""
    home = folder / "home"
    home.mkdir()
    told = Told()

    def end(tell: Callable[[str], None]) -> None:
        Tracer(found, point, nth, after).install()
        live(home, tell)

    killed = forked(end, told)
    told.read_log(home)
    forked(lambda tell: live(home, tell), told)
    told.read_log(home)
    forked(lambda tell: told.check(home), told)
    shutil.rmtree(home)
    return killed


def times(count: int, most: int) -> list[int]:
    """Which of `count` occurrences to kill at: spread over all, the first and the last among them."""
    if most == 1:
        return [(count + 1) // 2]
    return sorted({1 + round(index * (count - 1) / (most - 1)) for index in range(most)})


def part(text: str) -> tuple[int, int]:
    """`I/N` as numbers; ValueError for anything else."""
    first, parts = map(int, text.split("/"))
    if not 1 <= first <= parts:
        raise ValueError("no part")
    return first, parts


def main() -> int:
    parser = argparse.ArgumentParser(prog="make killpoints", description=__doc__.partition("\n\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--times", type=int, default=5, help="at how many of the times a point is come by")
    parser.add_argument("--part", type=part, default=(1, 1), metavar="I/N", help="every Nth point, from the Ith on")
    parser.add_argument("--list", action="store_true", help="print the points and how often a life comes by each")
    arguments = parser.parse_args()
    first, parts = arguments.part
    folder, found, began_s = Path(tempfile.mkdtemp(prefix="medchain-killpoints-")), points(), time.monotonic()
    counts = count(folder, found)
    missed = [point for point in found if not counts[point]]
    kills = 0
    for point in found[first - 1 :: parts]:
        if arguments.list or not counts[point]:
            print(f"{counts[point]:6} times  {point}")
            continue
        done = 0
        for nth in times(counts[point], arguments.times):
            for after in (False, True):
                try:
                    done += kill(folder, found, point, nth, after)
                except Exception as error:
                    moment = "after" if after else "before"
                    print(f"FAILED: killed {moment} time {nth} at {point}: {error!r}; data are in {folder}")
                    return 1
        print(f"{done:6} kills  {point}", flush=True)
        kills += done
    shutil.rmtree(folder)
    print(f"{len(found)} points, {kills} kills in {time.monotonic() - began_s:.0f} s: nothing lost", flush=True)
    if missed:
        print(f"FAILED: a life comes by {len(missed)} points never; the first: {missed[0]}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
