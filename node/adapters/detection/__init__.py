"""What this machine can do, found by trying it."""

from node.adapters.detection.detect import detect
from node.adapters.detection.doctor import Finding, examine

__all__ = ["Finding", "detect", "examine"]
