"""All faults, one module for each component that they hit. `FAULTS` lists them in the order of the table."""

from drills.faults import broker, ledger, messages, processes
from drills.faults.fault import REGISTERED, CanNotBeDone, Fault, Runs

__all__ = ["FAULTS", "CanNotBeDone", "Fault", "Runs"]

FAULTS: dict[str, Fault] = {
    item.key: item
    for module in (processes, broker, ledger, messages)
    for item in REGISTERED
    if item.do.__module__ == module.__name__
}
