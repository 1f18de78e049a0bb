"""An application of the storm: it reports events that are told apart, and tells the oracle what it did, as it does it.

Run as `python -m storms.application NAME SEED PIPE VARIANT [witness|last]`; the rest is in its environment. Lines go
to the oracle through a pipe, by one `write` each, so that what was said before a `kill -9` is heard:

    begin NAME PID                 a process, or a forked child, begins to speak
    offer NAME FIRST COUNT         these calls are about to be made
    taken NAME FIRST BITS          what each of them returned, 1 or 0
    level NAME NEXT LEVEL          a flush said yes: all before NEXT are `appended`, or at least `spooled`
    calls NAME COUNT P999 MAX      the witness: how long calls took, in nanoseconds
    end NAME CLEAN                 it closed; 1 if everything was appended in time
    quit NAME                      it is about to end without closing
"""

import os
import random
import select
import signal
import sys
import time
import traceback
import warnings
from typing import Final

from storms import variants

import sidestream

PARTITIONS: Final = 4
SESSIONS: Final = 12
BURST: Final = (20, 120)
REST_S: Final = (0.005, 0.04)
CLOSE_S: Final = 20.0
CHILD_BURSTS: Final = (3, 40)
"""How long a forked child lives, if it is let."""


def session_of(name: str, n: int) -> str:
    """Return the session of the N-th event of a process."""
    return f"{name}-{n % SESSIONS}"


class Application:
    """One process that reports, or a forked child of one.

    Args:
        name: Tells its events from everybody else's.
        seed: Of its dice.
        pipe: The oracle's.
        role: `witness` times every call, and is neither killed nor frozen; `last` comes when the storm is over, to send
            what the dead have left. Neither forks.
    """

    def __init__(self, name: str, seed: int, pipe: int, role: str = "") -> None:
        self._name = name
        self._dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._pipe = pipe
        self._role = role
        self._next = 0
        self._children = 0
        self._took_ns: list[int] = []
        self._say("begin", os.getpid())

    def _say(self, what: str, *more: object) -> None:
        os.write(self._pipe, f"{what} {self._name} {' '.join(map(str, more))}\n".encode())

    def run(self) -> None:
        """Report until standard input ends, then close."""
        while not select.select([sys.stdin], [], [], self._dice.uniform(*REST_S))[0]:
            self.burst()
            if self._dice.random() < 0.1:
                self.flush(self._dice.uniform(0.05, 1.0))
            if not self._role and self._dice.random() < 0.02:
                self.fork()
            _reap()
        if self._took_ns:
            took_ns = sorted(self._took_ns)
            self._say("calls", len(took_ns), took_ns[int(len(took_ns) * 0.999)], took_ns[-1])
        self.close()

    def burst(self) -> None:
        """Report some events, each of its own identity."""
        first, count = self._next, self._dice.randint(*BURST)
        self._say("offer", first, count)
        bits = ["0"] * count
        for n in range(first, first + count):
            with sidestream.session_context(session_of(self._name, n), "user"):
                began_ns = time.perf_counter_ns()
                bits[n - first] = "01"[self._report(n)]
                if self._role == "witness":
                    self._took_ns.append(time.perf_counter_ns() - began_ns)
        self._next += count
        self._say("taken", first, "".join(bits))

    def _report(self, n: int) -> bool:
        identity = f"{self._name}.{n}"
        match n % 10:
            case 7:
                return sidestream.error("ValueError", "it did not work", agent=identity)
            case 8:
                return sidestream.track_state_transition("drafting", identity)
            case 9:
                return sidestream.operation_done("render", duration_us=n, agent=identity)
            case _:
                return sidestream.usage(identity, "gpt-4o", n, 20, duration_us=1000, provider="openai")

    def flush(self, timeout_s: float) -> None:
        """Flush, and say which level was reached for what was reported before."""
        if not sidestream.flush(timeout_s):
            return
        counts = sidestream.statistics()
        waits = counts.buffered + counts.spooled + counts.in_flight + counts.unknown
        self._say("level", self._next, "spooled" if waits else "appended")

    def close(self) -> None:
        """Close, and say how it went."""
        clean = sidestream.close(CLOSE_S)
        self._say("end", int(clean))

    def fork(self) -> None:
        """Fork a child that reports as itself and ends in one of three ways, if nobody kills it before."""
        self._children += 1
        seed, way = self._dice.getrandbits(32), self._dice.randrange(3)
        if os.fork():
            return
        try:
            child = Application(f"{self._name}f{self._children}", seed, self._pipe)
            child.live_and_end(way)
        except Exception:  # noqa: BLE001 - the storm looks for it in the log
            traceback.print_exc()
        finally:
            os._exit(0)

    def live_and_end(self, way: int) -> None:
        """Report for a while, then close, or kill oneself, or just end."""
        for _ in range(self._dice.randint(*CHILD_BURSTS)):
            self.burst()
            time.sleep(self._dice.uniform(*REST_S))
        if way == 0:
            self.close()
            return
        if way == 1:
            self.flush(0.5)
        self._say("quit")
        if way == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main() -> None:
    """Configure, and report."""
    warnings.simplefilter("ignore", DeprecationWarning)  # it forks with threads, and that is what is tested
    name, seed, pipe, variant, *rest = sys.argv[1:]
    variants.apply(variant)
    sidestream.configure("storm", close_timeout_s=1)
    Application(name, int(seed), int(pipe), *rest).run()


if __name__ == "__main__":
    main()
