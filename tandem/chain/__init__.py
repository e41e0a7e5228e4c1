"""The ticket contract as typed calls and events, and the one sender of transactions of an account."""

import sys

# py_ecc, deep among web3's and eth-account's dependencies, lets Python recurse so deep that a peer's nested JSON ends
# the process by a stack overflow instead of a RecursionError.
_limit = sys.getrecursionlimit()
import web3  # noqa: E402, F401

sys.setrecursionlimit(_limit)
