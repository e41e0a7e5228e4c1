import subprocess
import sys

NESTED = "import json, tandem.chain.keystore, tandem.chain.rpc; json.loads('[' * 100_000)"


def test_nested_json_does_not_end_the_process_by_a_stack_overflow() -> None:
    ended = subprocess.run([sys.executable, "-c", NESTED], capture_output=True, text=True, check=False)
    assert (ended.returncode, "RecursionError" in ended.stderr) == (1, True)
