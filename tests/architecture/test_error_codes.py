"""A caller gets the same error codes from the ledger's functions as from the API."""

import re

from jobplatform.errors import JobPlatformError, all_errors
from tests.architecture.test_layout import ROOT

SQL = ROOT / "platform" / "jobplatform" / "ledger" / "sql"


def test_codes_of_sql_functions_for_callers_are_codes_of_the_api() -> None:
    """Teams call `submit_job` in their own transactions: the client maps its codes to classes and statuses."""
    codes = set(re.findall(r"\bcode := '(\w+)'", (SQL / "38_submit_job.sql").read_text()))
    assert {"unauthorized", "idempotency_key_reused", "quota_exceeded"} <= codes, "the pattern finds the codes"
    assert codes <= {error.code for error in [JobPlatformError, *all_errors()]}


def test_each_code_has_one_status() -> None:
    statuses: dict[str, set[int]] = {}
    for error in all_errors():
        statuses.setdefault(error.code, set()).add(error.status)
    assert {code: several for code, several in statuses.items() if len(several) > 1} == {}
