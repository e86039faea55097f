# syntax=docker/dockerfile:1
# Images of graft. The targets:
#
#   service      the HTTP service: no torch, no vLLM
#   trainer      the trainer, on CPUs
#   trainer-gpu  the trainer, on NVIDIA GPUs
#   trainer-ray, trainer-gpu-ray  the same, with Ray, which places them
#   engine       vLLM's own image, with the little of graft that starts it
#   all-cpu      service, trainer and vLLM for CPUs in one, for a demo
#
#   docker build --target service -t graft:0.1.0 .
#
# BASE is any image with Python 3.11 and its venv module; the locks have hashes for that Python.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
ARG ENGINE_BASE=docker.io/vllm/vllm-openai:v0.32.0

# ---------------------------------------------------------------- packages, in environments that are copied whole
FROM ${BASE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
ARG PREFIX=/opt/graft
RUN python3 -m venv "$PREFIX"
WORKDIR /build

FROM packages AS service-packages
COPY requirements/image/service.txt requirements/image/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes -r requirements/image/service.txt

FROM packages AS trainer-packages
# torch's CPU build is on an index of its own, of which nothing else is taken.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/torch-cpu.txt requirements/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes --index-url "$TORCH_INDEX" -r requirements/torch-cpu.txt
COPY requirements/image/trainer-cpu.txt requirements/image/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes -r requirements/image/trainer-cpu.txt

FROM trainer-packages AS all-cpu-packages
COPY requirements/image/cpu.txt requirements/image/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes -r requirements/image/cpu.txt

FROM packages AS trainer-gpu-packages
COPY requirements/image/trainer-gpu.txt requirements/image/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes -r requirements/image/trainer-gpu.txt

FROM trainer-packages AS trainer-ray-packages
COPY requirements/ray/ray.txt requirements/ray/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes -r requirements/ray/ray.txt

FROM trainer-gpu-packages AS trainer-gpu-ray-packages
COPY requirements/ray/ray.txt requirements/ray/
RUN "$PREFIX/bin/python" -m pip install --no-deps --require-hashes -r requirements/ray/ray.txt

# ---------------------------------------------------------------- what all of ours have in common
FROM ${BASE} AS graft
ENV PATH=/opt/graft/bin:$PATH PYTHONPATH=/srv/graft PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GRAFT_HOME=/data
WORKDIR /srv/graft
COPY LICENSE ./
COPY adapters adapters
COPY service service
COPY trainer trainer
COPY cli cli
# Nothing below /srv or /opt is the user's own; what is written goes to /data, /tmp and the cache.
RUN mkdir -p /data /cache && chown 10001:10001 /data /cache
USER 10001:10001
EXPOSE 8000

FROM graft AS trainer
COPY --from=trainer-packages /opt/graft /opt/graft
CMD ["python", "-m", "trainer"]

FROM graft AS trainer-gpu
COPY --from=trainer-gpu-packages /opt/graft /opt/graft
CMD ["python", "-m", "trainer"]

FROM graft AS trainer-ray
COPY --from=trainer-ray-packages /opt/graft /opt/graft
CMD ["python", "-m", "trainer.ray"]

FROM graft AS trainer-gpu-ray
COPY --from=trainer-gpu-ray-packages /opt/graft /opt/graft
CMD ["python", "-m", "trainer.ray"]

FROM graft AS all-cpu
COPY vllm_plugin vllm_plugin
COPY --from=all-cpu-packages /opt/graft /opt/graft
CMD ["python", "-m", "service"]

# ---------------------------------------------------------------- vLLM's image
# It brings vLLM, torch and CUDA; nothing of that is touched.
FROM ${ENGINE_BASE} AS engine
ENV PYTHONPATH=/srv/graft PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 GRAFT_HOME=/data
WORKDIR /srv/graft
COPY requirements/image/engine.txt requirements/image/
RUN python3 -m pip install --no-cache-dir --only-binary :all: --no-deps --require-hashes -r requirements/image/engine.txt \
    && (command -v python || ln -s "$(command -v python3)" /usr/local/bin/python)
COPY LICENSE ./
COPY adapters adapters
COPY service service
RUN mkdir -p /data /cache && chown 10001:10001 /data /cache
USER 10001:10001
ENTRYPOINT []
CMD ["python", "-m", "service.engine", "--help"]

# ---------------------------------------------------------------- the smallest, and what is built when no target is named
FROM graft AS service
COPY --from=service-packages /opt/graft /opt/graft
CMD ["python", "-m", "service"]
