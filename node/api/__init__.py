"""HTTP for clients: the server (`server.ApiServer`), its route table, and the clients (`client.Client`, `SyncClient`).

aiohttp is known here and in p2p/transport.py only. Nothing here may slow ordering: reads are bounded pages that take
turns, events are read from the store by cursor, waiters and streams are capped.
"""
