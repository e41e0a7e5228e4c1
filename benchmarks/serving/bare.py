"""`session.run` in a loop in one process: what any server is measured against. `python -m benchmarks.serving.bare`.

Arguments: the model's file, threads, seconds, the provider; standard input: the sample, as numpy saves it. Prints a
line of JSON: seconds, latencies and the output.
ONNX Runtime lets go of the interpreter's lock while it runs, so that two threads keep two cores busy.
"""

import io
import json
import sys
import threading
import time

import numpy as np
import onnxruntime as ort


def main() -> None:
    path, threads, seconds, provider = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=[provider])
    feeds = {"input": np.load(io.BytesIO(sys.stdin.buffer.read()))}
    session.run(None, feeds)
    latencies: list[float] = []
    last = time.perf_counter() + seconds

    def loop() -> None:
        while (begun := time.perf_counter()) < last:
            session.run(None, feeds)
            latencies.append(time.perf_counter() - begun)

    running = [threading.Thread(target=loop) for _ in range(threads)]
    begun = time.perf_counter()
    for each in running:
        each.start()
    for each in running:
        each.join()
    took = time.perf_counter() - begun
    (output,) = session.run(None, feeds)
    print(json.dumps({"seconds": took, "latencies": latencies, "output": output.ravel().tolist()}))


if __name__ == "__main__":
    main()
