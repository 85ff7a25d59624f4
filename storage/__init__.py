"""Bytes on disk: key-value backends, chain store, state tree, write-ahead log, and the node's data folder.

Imports only `ledger`. Nothing here decides what a block or a vote is worth. `LevelDB` is not exported here, so that
what uses the protocol or the memory backend alone does not load plyvel: import it from `storage.leveldb`.
"""

from storage.datadir import DataDir
from storage.errors import StorageError
from storage.kv import KeyValue, Reader, prefix_end
from storage.memory import MemoryKeyValue
from storage.wal import Record, WriteAheadLog

__all__ = ["DataDir", "KeyValue", "MemoryKeyValue", "Reader", "Record", "StorageError", "WriteAheadLog", "prefix_end"]
