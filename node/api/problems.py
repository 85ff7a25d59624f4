"""Errors of the API: problem documents (RFC 9457) from codes, and the one table from code to HTTP status.

Must not know: aiohttp, or which route failed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from ledger.codec import Value
from ledger.errors import PLUGIN_CODE_MIN, Code, Explanation, Reject, code_label
from ledger.explanations import EXPLANATIONS
from ledger.rules import Registry
from node.jsonvalues import value_to_json

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1  # a full pool drains within a block or two; a node that catches up answers again soon
FIELD_LENGTH_MAX: Final = 256  # a stranger's member name in an error

# Codes that are not here: refusals of transactions (below 3000, and plug-ins') are 422, the rest are 500.
HTTP_STATUS: Final[Mapping[int, int]] = MappingProxyType(
    {
        Code.MALFORMED: 400,
        Code.NOT_CANONICAL: 400,
        Code.TOO_LARGE: 413,
        Code.POOL_FULL: 429,
        Code.TOO_MANY_WAITERS: 503,
        Code.NOT_FINAL_IN_TIME: 504,
        Code.NOT_FOUND: 404,
        Code.BAD_REQUEST: 400,
        Code.BODY_TOO_LARGE: 413,
        Code.UNREACHABLE: 502,
        Code.UNAUTHORISED: 401,
        Code.PRUNED: 410,
        Code.NOT_ACCEPTING: 503,
        Code.UNSUPPORTED_MEDIA_TYPE: 415,
        Code.METHOD_NOT_ALLOWED: 405,
        Code.FORBIDDEN_HOST: 403,
        Code.DISK_FULL: 507,
    }
)

# Refusals of a field by its own type: the first detail is the field's path.
_NAMES_A_FIELD: Final = frozenset({Code.BAD_FIELD, Code.BAD_CHECK_DIGIT, Code.BAD_DATE})


def http_status(code: int) -> int:
    """The HTTP status of a code."""
    status = HTTP_STATUS.get(code)
    if status is not None:
        return status
    return 422 if code < Code.POOL_FULL or code >= PLUGIN_CODE_MIN else 500


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: its path (or JSON pointer, or parameter) and what is expected."""

    field: str
    reason: str


class Problem(Exception):
    """Answered as a problem document. `detail` is typed values; `text` says more than the code does."""

    def __init__(
        self,
        code: int,
        *detail: Value,
        text: str = "",
        errors: Sequence[FieldError] = (),
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code_label(code))
        self.code = code
        self.detail = detail
        self.text = text
        self.errors = tuple(errors)
        self.status = http_status(code) if status is None else status
        self.headers = dict(headers or {})
        self.more = dict(more or {})


def bad_request(field: str, reason: str) -> Problem:
    """The request itself is wrong, at `field`."""
    return Problem(Code.BAD_REQUEST, errors=[FieldError(field[:FIELD_LENGTH_MAX], reason)])


def not_found(what: str) -> Problem:
    """Nothing of the kind `what` under this address."""
    return Problem(Code.NOT_FOUND, text=f"no such {what}")


def pruned(height: int) -> Problem:
    """It is of a block at or below `height`, where this node keeps headers and certificates only."""
    return Problem(Code.PRUNED, text=f"blocks are whole from height {height + 1} on", more={"from": height + 1})


def rejected(code: int, detail: Sequence[Value], prefix: str = "", **more: Any) -> Problem:
    """A refused transaction. `prefix` goes before the path of the field that it names."""
    return Problem(code, *detail, errors=field_errors(code, detail, prefix), more=more)


def from_reject(reject: Reject, prefix: str = "") -> Problem:
    return rejected(int(reject.code), reject.detail, prefix)


def field_errors(code: int, detail: Sequence[Value], prefix: str = "") -> list[FieldError]:
    """Which field a refusal is about, when its code tells."""
    if code not in _NAMES_A_FIELD or not detail or not isinstance(detail[0], str):
        return []
    expected = detail[1] if code == Code.BAD_FIELD and len(detail) > 1 else EXPLANATIONS[Code(code)].summary
    return [FieldError((prefix + detail[0])[:FIELD_LENGTH_MAX], f"expected {expected!s}")]


class Codes:
    """Names and explanations of the package's codes and those of the active rule modules."""

    def __init__(self, registry: Registry) -> None:
        self._names = {int(code): code.name.lower() for code in Code}
        self._explanations: dict[int, Explanation] = {int(code): text for code, text in EXPLANATIONS.items()}
        for module in registry.modules:
            for code in module.codes or ():
                self._names[int(code)] = code.name.lower()
            self._explanations.update({int(code): text for code, text in module.explanations.items()})

    def name(self, code: int) -> str:
        return self._names.get(code, "unknown")

    def explain(self, code: int) -> Explanation:
        return self._explanations.get(code) or Explanation("A code of a rule module that is not installed here.", "")

    def document(self, problem: Problem) -> dict[str, Any]:
        """The problem document, without nothing-saying members."""
        code, explanation = problem.code, self.explain(problem.code)
        document: dict[str, Any] = {
            "type": f"/v1/errors#{code_label(code)}",
            "title": explanation.summary,
            "status": problem.status,
            "code": code_label(code),
            "name": self.name(code),
            "detail": problem.text or explanation.action,
            "retryable": explanation.retryable,
        }
        if problem.detail:
            document["values"] = [value_to_json(item) for item in problem.detail]
        if problem.errors:
            document["errors"] = [{"field": item.field, "reason": item.reason} for item in problem.errors]
        return document | problem.more

    def all(self) -> list[dict[str, Any]]:
        """Every code that may be met, by number."""
        return [
            {
                "code": code_label(code),
                "name": self._names.get(code, "unknown"),
                "summary": text.summary,
                "action": text.action,
                "retryable": text.retryable,
                "status": http_status(code),
            }
            for code, text in sorted(self._explanations.items())
        ]


def _default(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} is not JSON")


# Bytes are hexadecimal wherever they stand. NaN would be no JSON: a mistake of ours.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_default).encode


def json_bytes(value: object) -> bytes:
    """JSON as this API writes it; bytes become hexadecimal. A stored text cannot hold a lone surrogate."""
    return _encode(value).encode()
