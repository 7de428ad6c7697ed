# The service and its workers, for a model that was exported to ONNX: no torch. docs/service.md says how it is run.
#   docker build --target cpu -t corbel:cpu .        docker build --target cuda -t corbel:cuda .

FROM python:3.11.14-slim-bookworm AS packages
WORKDIR /build
COPY constraints.txt requirements-serve.txt requirements-cluster.txt ./
RUN python -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir -c constraints.txt -r requirements-cluster.txt

FROM packages AS packages-cuda
# Both have the same files, so that one of them has to go. CUDA and cuDNN come as packages, too.
RUN /venv/bin/python -m pip uninstall --yes onnxruntime \
    && /venv/bin/python -m pip install --no-cache-dir -c constraints.txt "onnxruntime-gpu[cuda,cudnn]==1.31.1"

FROM python:3.11.14-slim-bookworm AS service
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin corbel \
    && install --directory --owner corbel /photos /models
WORKDIR /app
COPY conf/ conf/
COPY scripts/ scripts/
COPY src/ src/
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    CORBEL_HOST=0.0.0.0 \
    CORBEL_CKPT=/models/model.onnx \
    CORBEL_FOLDER=/photos
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# the log goes to the container's own alone; the root file system may be read-only
CMD ["python", "scripts/serve.py", "serve=cluster", "hydra.run.dir=/tmp", "hydra.output_subdir=null", \
     "hydra.job_logging.root.handlers=[console]"]

FROM service AS cuda
COPY --from=packages-cuda /venv /venv
USER root
RUN find /venv -path '*/nvidia/*' -name '*.so*' -fprintf /etc/ld.so.conf.d/nvidia.conf '%h\n' && ldconfig
USER 10001
ENV CORBEL_DEVICE=cuda
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]

FROM service AS cpu
COPY --from=packages /venv /venv
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
