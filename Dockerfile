# The runtime without PyTorch: charrnn-gen, charrnn-score, charrnn-serve, ..., as an unprivileged user.
#
#   docker build -t charrnn .                        the CPU image
#   docker build -t charrnn:cuda --target cuda .     for NVIDIA GPUs; the host needs a driver for CUDA 13
#
#   docker run --rm -v "$PWD:/files:ro" charrnn models/lstm.onnx --prime "LORD "
#   docker run --rm -v "$PWD:/files:ro" --gpus all charrnn:cuda models/lstm.onnx --device cuda
#   docker run --rm -v "$PWD:/files:ro" --entrypoint charrnn-score charrnn models/lstm.onnx my.txt
#   docker run --rm -v "$PWD:/files:ro" -p 127.0.0.1:8000:8000 --entrypoint charrnn-serve charrnn \
#     models/lstm.onnx --host 0.0.0.0
#
# `python3 noxfile.py container` runs the steps of this file without a container engine.

FROM python:3.13-slim-bookworm AS source
WORKDIR /source
COPY constraints.txt ./
COPY runtime/pyproject.toml runtime/README.md runtime/LICENSE runtime/
COPY runtime/charrnn_runtime runtime/charrnn_runtime
RUN python -m venv --without-pip /opt/charrnn

# CUDA and cuDNN are installed as Python packages, so both images use the same base.
FROM source AS build-cuda
RUN python -m pip --python /opt/charrnn/bin/python install --no-cache-dir --constraint constraints.txt \
        "./runtime[cuda,serve]"

# The CPU build of onnxruntime is far smaller than the GPU build that the runtime requires on this platform.
FROM source AS build-cpu
RUN python -m pip --python /opt/charrnn/bin/python install --no-cache-dir --constraint constraints.txt \
        numpy onnxruntime protobuf rich typer prometheus-client starlette "uvicorn[standard]" \
    && python -m pip --python /opt/charrnn/bin/python install --no-cache-dir --no-deps ./runtime

FROM python:3.13-slim-bookworm AS bare
ENV PATH=/opt/charrnn/bin:$PATH
WORKDIR /files
USER 10001:10001
ENTRYPOINT ["charrnn-gen"]
CMD ["--help"]

FROM bare AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-cuda /opt/charrnn /opt/charrnn

# The last stage is the default target.
FROM bare AS cpu
COPY --from=build-cpu /opt/charrnn /opt/charrnn
