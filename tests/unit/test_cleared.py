"""Who cleared or marked what is on record before the API server answers, and nothing ever keeps it from answering."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from comporta.orchestration.cleared import Act, ClearsOnRecord, acts_of

CLEAR = "/api/v2/dags/rollout/clearTaskInstances"
RUN = "/api/v2/dags/rollout/dagRuns/manual__2026-11-24T10:00:00+00:00"
TWO = {
    "task_instances": [
        {"dag_id": "rollout", "dag_run_id": "r1", "task_id": "OPT1.rollback", "map_index": -1},
        {"dag_id": "rollout", "dag_run_id": "r1", "task_id": "outcome", "map_index": -1},
    ],
    "total_entries": 2,
}
BOTH = ("OPT1.rollback", "outcome")
CLEARED = Act("rollout", "r1", BOTH, False, "second thoughts")


class App:
    """The application behind: answers with ``answer`` in two parts, and keeps what was on record by then."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.answer = json.dumps(answer).encode()
        self.status = status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - the shape of ASGI
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x-seen", b"1")]})
        await send({"type": "http.response.body", "body": self.answer[:9], "more_body": True})
        await send({"type": "http.response.body", "body": self.answer[9:]})


class Book:
    """What is on record, and what was sent when."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Sequence[Act]]] = []
        self.sent: list[Any] = []
        self.sent_before_record = False

    def record(self, login: str, acts: Sequence[Act]) -> None:
        self.sent_before_record = bool(self.sent)
        self.entries.append((login, acts))

    async def who(self, scope: Any) -> str:
        return str(scope["signed_in"])


def ask(book: Book, app: Any, method: str, path: str, asked: Any, **middleware: Any) -> tuple[int, Any]:
    """One request in two parts through the middleware; status and body of the answer."""
    content = json.dumps(asked).encode()
    parts = ((content[:5], True), (content[5:], False))
    waiting = [{"type": "http.request", "body": body, "more_body": more} for body, more in parts]

    async def receive() -> Any:
        return waiting.pop(0)

    async def send(message: Any) -> None:
        book.sent.append(message)

    wrapped = ClearsOnRecord(app, **{"who": book.who, "record": book.record, **middleware})
    scope = {"type": "http", "method": method, "path": path, "signed_in": "dba"}
    asyncio.run(wrapped(scope, receive, send))
    return book.sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in book.sent))


def test_a_clear_is_on_record_with_login_tasks_and_note_before_it_is_answered() -> None:
    book = Book()
    asked = {"dry_run": False, "dag_run_id": "r1", "task_ids": ["OPT1.rollback"], "note": "second thoughts"}
    assert ask(book, App(TWO), "POST", CLEAR, asked) == (200, TWO)
    assert book.entries == [("dba", (CLEARED,))]
    assert not book.sent_before_record
    assert book.sent[0]["headers"] == [(b"x-seen", b"1")]


@pytest.mark.parametrize(
    "asked",
    [{}, {"dry_run": True}, {"dry_run": "true"}, {"dry_run": 1}],
    ids=["by default", "said", "as text", "as number"],
)
def test_a_look_at_what_would_be_cleared_is_not_recorded(asked: dict[str, Any]) -> None:
    book = Book()
    assert ask(book, App(TWO), "POST", CLEAR, asked) == (200, TWO)
    assert book.entries == []


@pytest.mark.parametrize("no", [False, 0, "false", "False", "off", "no"])
def test_every_way_that_airflow_reads_as_no_is_one(no: Any) -> None:
    assert acts_of("POST", {"dry_run": no}, TWO)


@pytest.mark.parametrize("status", [307, 403, 404, 409, 422, 500])
def test_a_clear_that_airflow_refused_is_not_recorded(status: int) -> None:
    book = Book()
    assert ask(book, App({"detail": "no"}, status), "POST", CLEAR, {"dry_run": False}) == (status, {"detail": "no"})
    assert book.entries == []


def test_a_clear_of_several_runs_is_recorded_for_each() -> None:
    tasks = [{"dag_id": "d", "dag_run_id": run, "task_id": "t", "map_index": 0} for run in ("r1", "r2", "r1")]
    acts = acts_of("POST", {"dry_run": False}, {"task_instances": tasks})
    assert acts == (Act("d", "r1", ("t",), False, None), Act("d", "r2", ("t",), False, None))


def test_a_clear_that_found_nothing_to_clear_is_none() -> None:
    assert acts_of("POST", {"dry_run": False}, {"task_instances": [], "total_entries": 0}) == ()


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        (f"{RUN}/clear", {"dag_id": "rollout", "dag_run_id": "r1", "state": "queued"}, ["r1"]),
        ("/api/v2/dags/~/clearDagRuns", {"dag_runs": [{"dag_id": "rollout", "dag_run_id": r} for r in ("r1", "r2")]}, ["r1", "r2"]),
    ],
    ids=["one", "several"],
)  # fmt: skip
def test_the_clear_of_a_whole_run_names_no_task(path: str, answer: Any, expected: list[str]) -> None:
    book = Book()
    ask(book, App(answer), "POST", path, {"dry_run": False, "note": None})
    assert book.entries == [("dba", tuple(Act("rollout", run, (), True, None) for run in expected))]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [({"only_failed": True}, (Act("rollout", "r1", None, False, None),)), ({"only_new": True}, ()),
     ({"only_failed": False, "only_new": False}, (Act("rollout", "r1", (), True, None),))],
    ids=["the failed ones", "none, new ones come in", "all"],
)  # fmt: skip
def test_the_clear_of_a_run_may_be_one_of_some_tasks(asked: dict[str, Any], expected: tuple[Act, ...]) -> None:
    assert acts_of("POST", {"dry_run": False, **asked}, {"dag_id": "rollout", "dag_run_id": "r1"}) == expected


@pytest.mark.parametrize(
    ("path", "asked", "answer", "expected"),
    [
        (f"{RUN}/taskInstances/OPT1.verify", {"new_state": "success", "note": "n"}, TWO, (BOTH, False, "n", "success")),
        (f"{RUN}/taskInstances/OPT1.verify/3", {"new_state": "failed"}, TWO, (BOTH, False, None, "failed")),
        (f"{RUN}/taskGroupInstances/OPT1", {"new_state": "skipped"}, TWO, (BOTH, False, None, "skipped")),
        (RUN, {"state": "failed"}, {"dag_id": "rollout", "dag_run_id": "r1"}, ((), True, None, "failed")),
    ],
    ids=["task", "mapped task", "group", "run"],
)  # fmt: skip
def test_what_is_marked_by_hand_is_recorded_with_its_state(path: str, asked: Any, answer: Any, expected: Any) -> None:
    book = Book()
    ask(book, App(answer), "PATCH", path, asked)
    assert book.entries == [("dba", (Act("rollout", "r1", *expected),))]


@pytest.mark.parametrize(
    ("method", "path", "asked"),
    [
        ("PATCH", f"{RUN}/taskInstances/OPT1.verify", {"note": "looked at it"}),
        ("PATCH", f"{RUN}/taskInstances/OPT1.verify/dry_run", {"new_state": "failed"}),
        ("PATCH", f"{RUN}/taskInstances/gate/-1/hitlDetails", {"state": "failed"}),
        ("POST", f"{RUN}/taskInstances/list", {"dry_run": False}),
        ("GET", CLEAR, {"dry_run": False}),
        ("POST", "/comporta/api/gates/decide", {"dry_run": False}),
    ],
    ids=["a note", "a look at a mark", "an answer", "a list", "reading", "another application"],
)
def test_everything_else_passes_unrecorded(method: str, path: str, asked: Any) -> None:
    book = Book()
    assert ask(book, App(TWO), method, path, asked) == (200, TWO)
    assert book.entries == []


def test_the_application_may_stand_under_a_prefix() -> None:
    book = Book()
    app = ClearsOnRecord(App(TWO), book.who, book.record)
    scope = {"type": "http", "method": "POST", "path": f"/airflow{CLEAR}", "root_path": "/airflow", "signed_in": "po"}

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"dry_run": false}'}

    async def send(message: Any) -> None:
        book.sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert [login for login, _ in book.entries] == ["po"]


@pytest.mark.parametrize("answer", [["no object"], {"task_instances": [{"task_id": "t"}]}], ids=["list", "no run"])
def test_an_answer_that_is_not_understood_is_passed_on(answer: Any) -> None:
    book = Book()
    assert ask(book, App(answer), "POST", CLEAR, {"dry_run": False}) == (200, answer)


def test_a_ledger_that_is_away_does_not_keep_anybody_from_clearing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no control database")

    assert ask(Book(), App(TWO), "POST", CLEAR, {"dry_run": False}, record=fail) == (200, TWO)
    assert "not in the ledger: POST" in caplog.text
    assert "OPT1.rollback" in caplog.text


def test_a_ledger_that_is_slow_holds_an_answer_for_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    answered = threading.Event()
    book = Book()

    def slow(login: str, acts: Sequence[Act]) -> None:
        answered.wait(60)
        book.record(login, acts)

    async def send(message: Any) -> None:
        book.sent.append(message)
        answered.set()

    async def receive() -> Any:
        return {"type": "http.request", "body": b'{"dry_run": false}'}

    app = ClearsOnRecord(App(TWO), book.who, slow, patience_s=0.01)
    asyncio.run(app({"type": "http", "method": "POST", "path": CLEAR, "signed_in": "po"}, receive, send))
    assert "its answer goes on" in caplog.text
    assert book.sent_before_record


def test_a_login_that_cannot_be_told_is_unknown_and_the_clear_on_record() -> None:
    async def nobody(_: Any) -> str:
        raise RuntimeError("the token has just expired")

    book = Book()
    ask(book, App(TWO), "POST", CLEAR, {"dry_run": False, "note": "second thoughts"}, who=nobody)
    assert book.entries == [("unknown", (CLEARED,))]
