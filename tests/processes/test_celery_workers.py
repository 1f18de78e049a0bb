"""A Celery worker on a real broker: children that are recycled, and those that end with the worker, drain."""

import signal
import sys

import pytest
from launching import Site, until

SEND = """
import tasks
answers = [tasks.tell.delay() for _ in range(int(__import__("sys").argv[1]))]
print(*[answer.get(timeout=10) for answer in answers])
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
