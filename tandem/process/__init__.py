"""Child processes that touch a stranger's bytes: confined, bounded, watched, and gone when their block ends."""

from tandem.process.child import Child, Finished, detect_sandbox, run, spawn, works
from tandem.process.confinement import Confinement, Limits, python_command, python_runtime

__all__ = [
    "Child",
    "Confinement",
    "Finished",
    "Limits",
    "detect_sandbox",
    "python_command",
    "python_runtime",
    "run",
    "spawn",
    "works",
]
