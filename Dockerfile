# An image of the service, from this checkout. `docker build --tag bandit-serve .`
#
# BUILDER has a C compiler, BASE has none; both have the same Python. Pin them by digest where builds are to be repeatable.
ARG BUILDER=python:3.11
ARG BASE=python:3.11-slim

# hadolint ignore=DL3006
FROM ${BUILDER} AS packages
ARG EXTRAS=embedded
# Whom the base trusts, pip trusts.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv --without-pip /opt/bandit-serve
COPY deploy/requirements.lock /lock/
RUN python -m pip --python /opt/bandit-serve/bin/python install --no-compile --require-hashes --requirement /lock/requirements.lock
COPY . /source
# What the lock has is there; packages of other extras come without hashes.
RUN python -m pip wheel --no-deps --wheel-dir /wheel /source \
 && python -m pip --python /opt/bandit-serve/bin/python install --no-compile "$(echo /wheel/*.whl)[${EXTRAS}]" \
 && python /source/bandit_serve/deployments/slim.py /opt/bandit-serve

# hadolint ignore=DL3006
FROM ${BASE}
ARG VERSION=0.1.0
ARG EXTRAS=embedded
ARG REVISION=unknown
LABEL org.opencontainers.image.title="bandit_serve" \
      org.opencontainers.image.description="Routes live prediction traffic over model versions with bandits or A/B tests" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      bandit_serve.image="1" \
      bandit_serve.extras="${EXTRAS}"
RUN echo 'bandit-serve:x:10001:10001::/data:/bin/false' >> /etc/passwd \
 && echo 'bandit-serve:x:10001:' >> /etc/group \
 && mkdir -p /data \
 && chown 10001:10001 /data
COPY --from=packages /opt/bandit-serve /opt/bandit-serve
COPY bandit_serve/deployments/healthcheck.py /opt/bandit-serve/healthcheck.py
RUN /opt/bandit-serve/bin/python -m bandit_serve.deployments.bytecode
ENV PATH=/opt/bandit-serve/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BANDIT_SERVE_HOST=0.0.0.0 \
    BANDIT_SERVE_PORT=8000 \
    BANDIT_SERVE_DATA=/data/service
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-I", "/opt/bandit-serve/healthcheck.py"]
ENTRYPOINT ["bandit-serve"]
CMD ["serve"]
