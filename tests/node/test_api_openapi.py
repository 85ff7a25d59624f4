"""The route table, the document made from it, the reference page, and the status page."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import Code
from ledger.explanations import EXPLANATIONS
from node.api import openapi
from node.api.problems import HTTP_STATUS, http_status
from node.api.routes import ROUTES
from tests.node.api_http import get
from tests.node.api_service import REGISTRY, running

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return openapi.document(REGISTRY, "0")


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_every_route_is_in_the_document_with_its_parameters(document: dict[str, Any]) -> None:
    for route in ROUTES:
        operation = document["paths"][route.template.replace("...}", "}")][route.method.lower()]
        assert {item["name"] for item in operation["parameters"]} == {
            parameter.name for parameter in (*route.path, *route.query)
        }
        names = re.findall(r"{(\w+)(?:\.\.\.)?}", route.template)
        assert names == [parameter.name for parameter in route.path]
    assert sum(len(item) for item in document["paths"].values()) == len(ROUTES)


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) <= known


def test_operation_ids_are_distinct(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(ids)) == len(ids)


def test_every_operation_has_its_fields_from_the_rules(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for handler in REGISTRY.handlers:
        shown = schemas[f"{handler.rule.operation.NAME}.1"]["properties"]["fields"]
        assert list(shown["properties"]) == [name for name, _ in handler.schema]
        assert shown["additionalProperties"] is False
    amount = schemas["payments.transfer.1"]["properties"]["fields"]["properties"]["amount"]
    assert amount == {"type": "integer", "minimum": 1, "maximum": 2**53 - 1}


def test_the_reference_page_is_current() -> None:
    assert (ROOT / "docs" / "http.md").read_text("utf-8") == openapi.markdown()


@pytest.mark.parametrize("code", [code for code in Code if code])
def test_every_code_has_a_status_and_an_explanation(code: Code) -> None:
    assert 400 <= http_status(code) <= 507
    assert code in EXPLANATIONS


def test_refusals_of_rules_are_422_also_those_of_plug_ins() -> None:
    assert {http_status(code) for code in (Code.NOT_GRANTED, Code.BAD_SIGNATURE, 10_001)} == {422}
    assert http_status(Code.INTERNAL) == 500
    assert all(status >= 400 for status in HTTP_STATUS.values())


@pytest.mark.asyncio
async def test_the_document_is_served(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, server):
        served = (await get(server.url, "/v1/openapi.json")).json
        assert served["openapi"] == "3.1.0"
        assert "/v1/transactions" in served["paths"]


@pytest.mark.asyncio
async def test_the_status_page_runs_its_own_script_only(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, server):
        page = await get(server.url, "/")
        policy = page.headers["content-security-policy"]
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for tag in (b"script", b"style"):
            (content,) = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), page.body, re.DOTALL)
            assert f"'sha256-{b64encode(sha256(content).digest()).decode()}'" in policy
        assert not re.search(rb"(src|href)=.(https?:)?//", page.body)
        assert b"innerHTML" not in page.body
