"""The data everything else speaks: codec, keys, transactions, blocks, validators, genesis, execution and rules.

Imports nothing else of this project; has no I/O, clock, randomness or floats (tests/test_architecture.py).
"""
