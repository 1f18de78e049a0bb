"""A worker in a process of its own: carries all units until nothing is left, and prints how many processes it tried in.

`python -m one_worker <Redis url> <name in fatal_handlers>`
"""

import json
import sys

import anyio
import fatal_handlers

from consumers.runtime.effects import FoldEffect
from consumers.runtime.run import Worker, WorkerOptions
from pipeline.connection import AsyncServer, RedisSettings
from pipeline.keys import Keys


async def main(url: str, name: str) -> None:
    """Work until idle."""
    server = AsyncServer(RedisSettings(url))
    effect = FoldEffect.of(getattr(fatal_handlers, name))
    worker = Worker(server, Keys("test"), [effect], options=WorkerOptions(trial_timeout_s=5))
    await worker.run_until_idle()
    await server.aclose()
    statistics = worker.statistics()
    print(json.dumps({"events": statistics.events, "trials": statistics.trials}))  # noqa: T201 - what is asked for


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
