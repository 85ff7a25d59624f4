"""Talking to peers: frames, queues, handshake and peer book as pure cores, and one transport that does the I/O.

Imports only `ledger`. Payloads are opaque here: what a vote or a block means is the business of others. Import from
the modules directly; nothing is re-exported, so that the pure cores load without aiohttp.
"""
