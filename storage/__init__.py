"""What is on disk: key-value backends, the chain store with its state tree, the write-ahead log, the data folder.

Knows `ledger` only. Not how blocks are agreed on, nor how they travel.
"""
