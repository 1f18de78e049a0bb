"""The `sidestream` command; `python -m sidestream` is the same."""

import io
import os
import sys


def main() -> None:
    """Run the command line, or say what it needs."""
    # genai-prices imports pydantic, which loads Logfire's plugin where the SDK is installed: that costs 0.3 s, and is a
    # traceback where a LOGFIRE_ variable is wrong, before it could be refused by name.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal or file of another encoding gets a question mark for what it cannot show, and not a traceback.
            stream.reconfigure(errors="replace")
    try:
        # What these import is an extra; and a container engine that asks every few seconds loads no more than it needs.
        if sys.argv[1:2] == ["health"]:
            from sidestream.cli.health import run  # noqa: PLC0415
        else:
            from sidestream.cli.app import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in {"sidestream", "consumers", "producers", "pipeline"}:
            raise
        sys.stderr.write(
            f"sidestream: the command line needs the extra 'worker' ({package} is not installed).\n"
            "            pip install 'sidestream[worker]'\n"
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
