"""A search of everything a node has on disk: files as they are, and the database's keys and values as they were written
(its tables are compressed, so the files alone would not show all). The cluster must be stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from node.home import DATA
from storage.datadir import DataDir
from storage.leveldb import LevelDB

# Shorter texts, and numbers that look like a part of a hash or a time, occur by chance in ciphertext and hexadecimal:
# such are searched as whole words of readable text only.
SURE_SIZE_BYTES = 7
READABLE = re.compile(rb"[\x20-\x7e]{12,}")
WORD = rb"(?<![0-9A-Za-z])%b(?![0-9A-Za-z])"


def places(cluster: Path) -> Iterator[tuple[str, bytes]]:
    """(where, content) of all files under a cluster's folder, and of each node's database."""
    for path in sorted(cluster.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(cluster)), path.read_bytes()
    for folder in sorted(cluster.glob(f"*/{DATA}")):
        with DataDir(folder) as data:
            kv = LevelDB(data.db)
            try:
                yield f"{folder.parent.name}: database", b"\0".join(key + b"\0" + value for key, value in kv.scan(b""))
            finally:
                kv.close()


def found_in_clear(cluster: Path, texts: Iterable[str]) -> list[tuple[str, str]]:
    """(where, text) of every text that is anywhere on disk."""
    wanted = [(text, text.encode()) for text in sorted(set(texts)) if text]
    sure = [(text, data) for text, data in wanted if not _may_be_chance(data)]
    words = [(text, re.compile(WORD % re.escape(data))) for text, data in wanted if _may_be_chance(data)]
    found = []
    for where, content in places(cluster):
        found += [(where, text) for text, data in sure if data in content]
        readable = b"\n".join(READABLE.findall(content))
        found += [(where, text) for text, pattern in words if pattern.search(readable)]
    return found


def _may_be_chance(data: bytes) -> bool:
    return len(data) < SURE_SIZE_BYTES or re.fullmatch(rb"[0-9a-f]{1,12}", data) is not None
