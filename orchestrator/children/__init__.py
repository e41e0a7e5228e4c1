"""Programs that touch strangers' bytes for the orchestrator, each in a confined child process of its own."""
