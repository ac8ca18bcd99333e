# One image for the web server, the workers, the scheduler and MLflow; the command selects the program.
# BASE can be any Debian with Python 3.11 and its venv module.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# For a build without a package index: a folder of wheels that is mounted into the build.
ARG PIP_NO_INDEX
ARG PIP_FIND_LINKS
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/venv
COPY requirements.txt /tmp/
RUN /opt/venv/bin/pip install -q -r /tmp/requirements.txt
WORKDIR /srv/toxicmod
COPY manage.py ./
COPY toxicmod toxicmod
COPY apps apps
COPY templates templates
COPY static static
RUN DATA_DIR=/tmp/data /opt/venv/bin/python manage.py collectstatic --noinput --verbosity 0 \
    && /opt/venv/bin/python -m compileall -q .

FROM ${BASE}
RUN useradd --system --uid 10001 --no-create-home toxicmod && install -d -m 0700 -o toxicmod -g toxicmod /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/toxicmod /srv/toxicmod
WORKDIR /srv/toxicmod
# Programs write only to /data (persistent) and /tmp.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 PORT=8000 DATA_DIR=/data HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib
USER 10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["gunicorn", "--config", "python:toxicmod.gunicorn"]
