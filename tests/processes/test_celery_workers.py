"""A Celery worker on a real broker: children that are recycled, and those that end with the worker, drain."""

import signal
import sys

import pytest
from launching import Site, until

from pipeline.events import ErrorEvent

SEND = """
import tasks
answers = [tasks.tell.delay() for _ in range(int(__import__("sys").argv[1]))]
print(*[answer.get(timeout=10) for answer in answers])
"""

SEND_IN_SESSION = """
import sidestream, tasks
with sidestream.session_context("session-1", "user-1", tenant="acme", tags=["beta"], state="drafting"):
    answers = [tasks.tell.delay(), tasks.fail.delay()]
answers.append(tasks.tell.delay())
for answer in answers:
    answer.get(timeout=10, propagate=False)
"""

WORKER = "celery -A tasks worker -c 1 -l WARNING"
QUIET = "--without-gossip --without-mingle --without-heartbeat"


@pytest.mark.parametrize(
    ("pool", "arrive_before_the_end"),
    [("--pool=prefork --max-tasks-per-child=3", 3), ("--pool=prefork", 0), ("--pool=solo", 0), ("--pool=threads", 0)],
)
def test_a_worker_s_processes_drain(site: Site, pool: str, arrive_before_the_end: int) -> None:
    """Three tasks' events arrive when their child is recycled, or else when it ends with the worker."""
    broker = site.url.replace("unix://", "redis+socket://")
    command = [sys.executable, "-m", *WORKER.split(), *QUIET.split(), *pool.split()]
    with site.process(*command, BROKER=broker) as worker:
        with site.process(sys.executable, "-c", SEND, "3", BROKER=broker) as sender:
            told, _ = sender.communicate(timeout=20)
        assert sender.returncode == 0, told
        until(lambda: site.agents().count("writer") == arrive_before_the_end)
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=15)
    assert site.agents().count("writer") == 3, said
    [child] = [presence for presence in site.presences() if presence.offered]
    assert {child.pid} == set(map(int, told.split()))
    assert child.closed
    assert child.appended == 3


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_task_s_events_are_about_its_caller_s_session(site: Site, pool: str) -> None:
    """Session, user, tenant, tags and state travel with the message; a task sent from nowhere is about nobody."""
    broker = site.url.replace("unix://", "redis+socket://")
    command = [sys.executable, "-m", *WORKER.split(), *QUIET.split(), f"--pool={pool}"]
    with site.process(*command, BROKER=broker) as worker:
        with site.process(sys.executable, "-c", SEND_IN_SESSION, BROKER=broker) as sender:
            told, _ = sender.communicate(timeout=20)
        assert sender.returncode == 0, told
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=15)
    found = site.events()
    assert len(found) == 4, said
    told_of = [event for event in found if event.session]
    assert {(e.session, e.user, e.tenant, e.tags, e.state) for e in told_of} == {
        ("session-1", "user-1", "acme", ("beta",), "drafting")
    }
    [error] = [event for event in told_of if isinstance(event, ErrorEvent)]
    assert (error.type, error.operation) == ("LookupError", "fail")
    [nobody] = [event for event in found if not event.session]
    assert (nobody.user, nobody.tags) == ("", ())
