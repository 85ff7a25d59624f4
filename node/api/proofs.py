"""Handlers of proof bundles: facts for those who do not trust this node (docs/proofs.md).

Must not know: what is in a bundle.
"""

from __future__ import annotations

from collections.abc import Callable

from node.api.exchange import Answer, Api, Request
from node.api.problems import not_found
from storage.bundles import Bundler, Unprovable

MEDIA_TYPE = "application/octet-stream"


async def head(api: Api, request: Request) -> Answer:
    return await _answer(api, request, lambda bundler: bundler.head())


async def state(api: Api, request: Request) -> Answer:
    return await _answer(api, request, lambda bundler: bundler.state(request.query["key"]))


async def transaction(api: Api, request: Request) -> Answer:
    return await _answer(api, request, lambda bundler: bundler.transaction(request.path["id"]))


async def receipt(api: Api, request: Request) -> Answer:
    return await _answer(api, request, lambda bundler: bundler.receipt(request.path["id"]))


async def _answer(api: Api, request: Request, make: Callable[[Bundler], bytes]) -> Answer:
    async with api.reads.admitted():
        try:
            return Answer(make(Bundler(api.service.store, request.query["since"])), media_type=MEDIA_TYPE)
        except Unprovable as error:
            raise not_found(f"proof: {error}") from None
