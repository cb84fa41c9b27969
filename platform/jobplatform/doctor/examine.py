"""All checks for problems that keep jobs from running."""

from __future__ import annotations

from collections.abc import Iterator

from jobplatform.config import Settings
from jobplatform.doctor.broker_checks import check_broker
from jobplatform.doctor.finding import Finding, failed
from jobplatform.doctor.ledger_checks import check_ledger, check_processes
from jobplatform.doctor.outside_checks import check_outside, check_settings
from jobplatform.domain.kinds import KindRegistry, load_kinds
from jobplatform.errors import JobPlatformError
from jobplatform.ledger.session import Ledger


def examine(ledger: Ledger, config: Settings) -> Iterator[Finding]:
    """Yield a finding per check, as they are made; checks that depend on something unreachable are left out."""
    kinds: KindRegistry | None = None
    try:
        kinds = load_kinds(config.kind_modules, config.pools)
    except Exception as error:  # a team's module may raise anything
        modules = ", ".join(config.kind_modules)
        yield failed("kinds", f"{modules}: {error!r}", "mend the module, or JOBPLATFORM_KIND_MODULES")
    if kinds is not None:
        yield from check_settings(config, kinds)
    usable = True
    for finding in check_ledger(ledger, config):
        usable = usable and finding.level != "failed"
        yield finding
    if usable:
        try:
            yield from check_processes(ledger, config, kinds)
        except JobPlatformError as error:
            yield failed("database", str(error), "look at Postgres")
    yield from check_broker(ledger if usable else None, config)
    if kinds is not None:
        yield from check_outside(config, kinds)
