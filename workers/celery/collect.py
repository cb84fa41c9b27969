"""Collect the calls of a canvas with Celery's own code, before anything runs.

Celery sends the first messages of a canvas, and its workers send the others when a result is known. Here nothing is
sent: each call is recorded, then what a worker would do on success is done at once, with a `Ref` for the result.
So nested chains, groups and chords are unrolled as Celery does it, with the ids that Celery has frozen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

from celery import Celery
from celery.canvas import group, maybe_signature
from celery.result import GroupResult

from jobplatform.errors import InvalidRequest
from workers.celery.call import Call, Ref, Results

T = TypeVar("T")

_active: ContextVar[Collector | None] = ContextVar("collector", default=None)


def active() -> Collector | None:
    """Return the active collector of this thread."""
    return _active.get()


class Collector:
    """The calls of one canvas, in the order in which Celery would send them."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.calls: dict[str, Call] = {}
        #: group id → the results of its tasks, in their order; among them other groups'
        self.groups: dict[str, list[Any]] = {}
        self._to_expand: deque[Call] = deque()
        self._chords: list[tuple[Any, str, tuple[str, ...]]] = []
        self._current: Call | None = None
        self._after: tuple[str, ...] = ()
        #: the ids that the header of a chord waits for, while its body is applied
        self._header_after: tuple[str, ...] = ()
        self._of_chord = self._is_body = self._fails_with_header = False

    def note(self, call: Call, add_to_parent: bool) -> None:
        """Record a call instead of sending it."""
        if call.task_id in self.calls:
            raise InvalidRequest(
                f"task {call.name} would be called twice with one id ({call.task_id}): a frozen signature stands twice "
                f"in the canvas, or it follows a group that is a chord's body. Clone it, or call `first | second`: a "
                f"chord of the two"
            )
        call.after, call.of_chord, call.is_body = self._after, self._of_chord, self._is_body
        call.header_after = self._header_after if self._is_body else ()
        self.calls[call.task_id] = call
        self._to_expand.append(call)
        if not add_to_parent:
            return
        result = self.app.AsyncResult(call.task_id)
        if self._current is not None:
            self._current.children.append(result)
        elif (parent := self.app.current_worker_task) is not None:
            parent.add_trail(result)

    def note_group(self, result: Any, add_to_parent: bool) -> None:
        """Record the results of an applied group."""
        if isinstance(result, GroupResult) and result.results:
            self.groups.setdefault(result.id, list(result.results))
            if add_to_parent and self._current is not None:
                self._current.children.append(result)

    def note_chord(self, group_id: str, results: Iterable[Any], body: Any) -> None:
        """Record that a body waits for the results of a group."""
        self.groups[group_id] = list(results)
        self._chords.append((body, group_id, self._header_after if self._fails_with_header else self._after))

    def run(self, apply: Callable[[], T]) -> T:
        """Apply a canvas and all calls that follow from it. Returns what Celery returns to the caller."""
        token = _active.set(self)
        try:
            result = apply()
            parent = self.app.current_worker_task
            direct_children = 0 if parent is None else len(parent.request.children)
            while self._to_expand or self._chords:
                if self._to_expand:
                    self._expand(self._to_expand.popleft())
                else:
                    self._apply_body(*self._next_chord())
            if parent is not None:  # groups add themselves to the running task, including those that are applied later
                del parent.request.children[direct_children:]
            return result
        finally:
            _active.reset(token)

    def _next_chord(self) -> tuple[Any, str, tuple[str, ...]]:
        """Return the first chord whose header is complete; bodies of inner chords come first."""
        for index, (_, group_id, _after) in enumerate(self._chords):
            if all(leaf in self.calls for leaf in leaves_of(self.groups[group_id])):
                return self._chords.pop(index)
        return self._chords.pop(0)

    def _expand(self, call: Call) -> None:
        """Do what Celery's worker does when a task succeeds (celery/app/trace.py, `_dispatch_callbacks_and_chain`)."""
        if not call.links and not call.chain:
            return
        self._current, self._after, self._of_chord, self._is_body = call, (call.task_id,), False, False
        self._fails_with_header = False
        value = (Ref(call.task_id),)
        # the called task inherits the priority only if the app's configuration says so
        inherited = call.priority if self.app.conf.task_inherit_parent_priority else None
        ids = {"parent_id": call.task_id, "root_id": call.headers.get("root_id") or call.task_id}
        ids |= {"priority": inherited}
        signatures = [maybe_signature(link, app=self.app) for link in call.links]
        if len(signatures) == 1:
            signatures[0].apply_async(value, **ids)
        else:
            single = [signature for signature in signatures if not isinstance(signature, group)]
            for signature in signatures:
                if isinstance(signature, group):
                    signature.apply_async(value, **ids)
            if single:
                group(single, app=self.app).apply_async(value, **ids)
        if call.chain:
            follower = maybe_signature(call.chain[-1], app=self.app)
            follower.apply_async(value, chain=call.chain[:-1], **ids)

    def _apply_body(self, body: Any, group_id: str, header_after: tuple[str, ...]) -> None:
        """Do what a backend does when the last task of a chord's header has returned."""
        results = self.groups[group_id]
        last = next((self.calls[leaf] for leaf in reversed(list(leaves_of(results))) if leaf in self.calls), None)
        self._current, self._after, self._is_body = last, (group_id,), True
        self._header_after = header_after
        ids = {}
        if last is not None:
            ids = {"parent_id": last.task_id, "root_id": last.headers.get("root_id") or last.task_id}
        signature = maybe_signature(body, app=self.app)
        # as in Celery: if the body is a group, its tasks fail with the exception of the header's task
        self._of_chord = not isinstance(signature, group)
        # when the header fails, a backend calls the errbacks of a group's members and those in a body's own options,
        # but none further in: a chord that is the body counts as begun with the outer one only if it has errbacks
        self._fails_with_header = not self._of_chord or bool(signature.options.get("link_error"))
        if isinstance(body, dict) and body.get("options", {}).get("root_id"):
            ids.pop("root_id", None)
        signature.apply_async((references_to(results, group_id),), **ids)


def leaves_of(results: list[Any]) -> Iterator[str]:
    """Yield the ids of the tasks whose results these are."""
    for result in results:
        if isinstance(result, GroupResult):
            yield from leaves_of(result.results)
        else:
            yield result.id


def references_to(results: list[Any], group_id: str | None = None) -> Results:
    """Return the references to these results."""
    references = Results(
        references_to(result.results) if isinstance(result, GroupResult) else Ref(result.id) for result in results
    )
    references.group_id = group_id
    return references
