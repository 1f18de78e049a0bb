"""What the children of multiprocessing run."""

import sidestream


def closing() -> None:
    """Report, and close."""
    sidestream.usage("child", "m")
    assert sidestream.close(5)


def configuring() -> None:
    """Configure, as a process that inherits nothing must; report, and close."""
    sidestream.configure("child")
    closing()


def leaving() -> None:
    """Report, and leave it to nobody."""
    sidestream.usage("child", "m")
