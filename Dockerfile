# The bundle and its weights, ready to predict, to train and to evaluate: docs/how-to/container.md has the commands.
FROM python:3.13-slim

# Address of an index of PyTorch, as pytorch.org gives it for CPUs or for a version of CUDA; empty: that of pip
ARG TORCH_INDEX=""
# Extras of setup.cfg, such as [tracking,viewer]
ARG EXTRAS=""

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib \
  XDG_CACHE_HOME=/tmp/cache

# torch first, at the tested version, so that no other package brings in another build of it
COPY constraints.txt setup.cfg pyproject.toml README.md /opt/rib-fractures/packages/
WORKDIR /opt/rib-fractures/packages
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
  && pip install -c constraints.txt ".$EXTRAS"

COPY bundle /opt/rib-fractures/bundle
WORKDIR /opt/rib-fractures/bundle
# what a run writes where no other folder is given
RUN useradd --create-home --uid 1000 reader && mkdir -p data output && chown reader data output
USER reader

ENTRYPOINT ["python", "-m"]
CMD ["scripts", "--help"]
