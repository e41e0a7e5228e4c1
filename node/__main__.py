"""`python -m node` is `tandem node`."""

from node.cli import node

node()
