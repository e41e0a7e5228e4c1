# Tandem in containers: `docker build --target cpu .` and `docker build --target cuda .`; `chain` is a test chain.
# In both, the command is `tandem`, as outside.
ARG PYTHON=3.12

FROM node:22-slim AS chain
WORKDIR /contracts
COPY contracts/package.json contracts/package-lock.json ./
RUN npm ci --silent && mkdir /data && chown node:node /data
USER node
VOLUME /data
ENTRYPOINT ["/contracts/node_modules/.bin/anvil", "--host", "0.0.0.0", \
  "--state", "/data/chain.json", "--state-interval", "5"]

FROM python:${PYTHON}-slim AS base
RUN apt-get update \
  && apt-get install -y --no-install-recommends bubblewrap ffmpeg util-linux \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 10001 --create-home tandem \
  && install -d -o tandem -g tandem /data
ENV PATH=/opt/tandem/bin:$PATH PYTHONUNBUFFERED=1

# The packages change less often than the code, and each target has its own build of ONNX Runtime.
# The orchestrator's image also reads Arrow.
FROM base AS packages-cpu
COPY requirements/cpu.txt requirements/arrow.txt /tmp/
RUN python -m venv /opt/tandem \
  && pip install --no-cache-dir --require-hashes -r /tmp/cpu.txt -r /tmp/arrow.txt

FROM base AS packages-cuda
COPY requirements/gpu.txt /tmp/requirements.txt
RUN python -m venv /opt/tandem && pip install --no-cache-dir --require-hashes -r /tmp/requirements.txt

FROM packages-cpu AS built-cpu
COPY . /src
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM packages-cuda AS built-cuda
COPY . /src
RUN pip install --no-cache-dir --no-deps --no-build-isolation /src

FROM base AS cpu
COPY --from=built-cpu /opt/tandem /opt/tandem
COPY config /config
USER tandem
WORKDIR /data
VOLUME /data
ENTRYPOINT ["tandem"]

FROM base AS cuda
# CUDA and cuDNN come as Python packages; the driver's libraries, NVENC's and NVDEC's too, from the host's runtime.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility,video
COPY --from=built-cuda /opt/tandem /opt/tandem
COPY config /config
USER tandem
WORKDIR /data
VOLUME /data
ENTRYPOINT ["tandem"]
