"""The status page: one HTML file without outside resources, under a policy that runs exactly its own script.

Must not know: what the page shows.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from node.api.exchange import Answer

_FILE = Path(__file__).parent / "static" / "status.html"


def answer() -> Answer:
    """The page with its headers: the policy names script and style by their hashes."""
    html = _FILE.read_bytes()
    policy = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"script-src {_hash_of(html, b'script')}; style-src {_hash_of(html, b'style')}"
    )
    return Answer(html, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def _hash_of(html: bytes, tag: bytes) -> str:
    found = re.search(rb"<%s>(.*?)</%s>" % (tag, tag), html, re.DOTALL)
    assert found is not None
    return f"'sha256-{b64encode(sha256(found.group(1)).digest()).decode()}'"
