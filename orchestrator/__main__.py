"""`python -m orchestrator` is `tandem orchestrator`."""

from orchestrator.cli import orchestrator

orchestrator()
