# An image for runs on GPUs; PyTorch's wheel brings CUDA along, the machine its driver and the NVIDIA container toolkit.
# Build:  docker build -t lit-narrative .
# Run:    docker run --rm --gpus all --shm-size=8g -v "$PWD/runs:/work/runs" lit-narrative run storyworld
FROM python:3.11-slim-bookworm

# torch.compile and Triton compile C; the distribution's own release of gcc is wanted, whichever that is.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
# The large libraries first, in a layer that changes with the pins alone.
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt torch transformers lightning
COPY pyproject.toml setup.py README.md LICENSE ./
COPY lit_narrative ./lit_narrative
COPY configs ./configs
RUN pip install --no-cache-dir -c constraints.txt ".[tensorboard,qlora]"

# A run writes to its folder alone; models of the hub are kept in a volume mounted at /work/hub.
RUN useradd --create-home --uid 1000 writer && mkdir -p /work/runs /work/hub && chown -R writer /work
USER 1000
WORKDIR /work
ENV PYTHONUNBUFFERED=1 HF_HOME=/work/hub
ENTRYPOINT ["lit-narrative"]
CMD ["--help"]
