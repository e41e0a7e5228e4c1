from contracts.build import ARTIFACT, build
from tandem.chain.artifact import explain_revert


def test_the_committed_artifact_equals_a_fresh_build() -> None:
    assert ARTIFACT.read_text() == build(), "run python contracts/build.py, and commit what it writes"


def test_reverts_are_explained() -> None:
    assert explain_revert(bytes.fromhex("0e1a8aba")) == "0x0e1a8aba"
    assert explain_revert(b"") == "no reason"
