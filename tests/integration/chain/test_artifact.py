from contracts.build import ARTIFACT, build


def test_the_committed_artifact_equals_a_fresh_build() -> None:
    assert ARTIFACT.read_text() == build(), "run python contracts/build.py, and commit what it writes"
