"""Valid and invalid requests generated from /openapi.json: no server errors, every answer as described."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from api.v1 import OPERATIONS
from jobplatform.domain.access import Scope
from jobplatform.ledger import keys
from jobplatform.ledger.keys import Grants
from tests.support.ledger_harness import LedgerHarness

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("tag", sorted({item.tag for item in OPERATIONS}))
def test_every_operation_answers_as_described_in_openapi(
    app: Any, harness: LedgerHarness, tag: str, mode: GenerationMode
) -> None:
    with harness.ledger.transaction() as connection:
        key = keys.create_key(connection, harness.tenant_id, "fuzz", Grants(scopes=tuple(Scope), is_operator=True))
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    seen = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.tags != [tag]:
            continue
        seen += 1

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=12,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def asked(case: schemathesis.Case) -> None:
            answer = case.call(headers={"Authorization": f"Bearer {key}"})
            case.validate_response(answer, checks=CHECKS)

        asked()
    assert seen == sum(item.tag == tag for item in OPERATIONS)
