"""Looking into a stranger's files: in confined child processes, never here."""

from tandem.inspection.calls import ModelReport, inspect_media, inspect_model

__all__ = ["ModelReport", "inspect_media", "inspect_model"]
