"""Fixtures for every test."""

pytest_plugins = [
    "tests.fixtures.anvil",
    "tests.fixtures.clock",
    "tests.fixtures.media",
    "tests.fixtures.sources",
    "tests.fixtures.api",
    "tests.fixtures.streams",
    "tests.fixtures.till",
]
