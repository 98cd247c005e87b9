"""Images of the service, with or without a model inside, and what is removed of those that nothing needs.

An image is built of a wheel and a base with Python. Its service is no root, needs no file system to write to but
`/data` and `/tmp`, and says by the image's own check whether it is ready.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from bandit_serve import __version__
from bandit_serve.api.deployments import BuiltImage
from bandit_serve.deployments.bundle import Bundled, write_bundle
from bandit_serve.deployments.engine import engine_at
from bandit_serve.deployments.running_wheel import running_constraints, write_running_wheel
from bandit_serve.deployments.under_way import is_abandoned, this_process
from bandit_serve.errors import Conflict, NotFound, UsageError
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.registry.registry import Version

BASE = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"
LABEL = "bandit_serve.image"
EXTRAS, MAKER = "bandit_serve.extras", "bandit_serve.maker"
MODEL, VERSION, SHA256 = "bandit_serve.model", "bandit_serve.version", "bandit_serve.sha256"
BUNDLE = "/bundle"
# Pip and compilers of wheels may take minutes.
BUILD_TIMEOUT_S = 1_800.0
ONNX = "onnx"
PROGRAMS = ("healthcheck.py", "slim.py")

SERVICE = """\
ARG BASE
FROM ${BASE} AS packages
COPY . /context/
# Whom the base trusts, pip trusts.
RUN if [ -f /etc/ssl/certs/ca-certificates.crt ]; then export PIP_CERT=/etc/ssl/certs/ca-certificates.crt; fi \\
 && export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \\
 && python -m venv --without-pip /opt/bandit-serve \\
 && python -m pip --python /opt/bandit-serve/bin/python install --no-compile \\
    --constraint /context/constraints.txt "$(echo /context/*.whl)[@EXTRAS@]" \\
 && python /context/slim.py /opt/bandit-serve
# The stage is left over when the image is done: `collect` knows it by these.
ARG MAKER
LABEL bandit_serve.image=1 bandit_serve.maker=${MAKER}

FROM ${BASE}
RUN echo 'bandit-serve:x:10001:10001::/data:/bin/false' >> /etc/passwd \\
 && echo 'bandit-serve:x:10001:' >> /etc/group \\
 && mkdir -p /data \\
 && chown 10001:10001 /data
COPY --from=packages /opt/bandit-serve /opt/bandit-serve
COPY healthcheck.py /opt/bandit-serve/healthcheck.py
RUN /opt/bandit-serve/bin/python -m bandit_serve.deployments.bytecode
ENV PATH=/opt/bandit-serve/bin:$PATH \\
    PYTHONUNBUFFERED=1 \\
    BANDIT_SERVE_HOST=0.0.0.0 \\
    BANDIT_SERVE_PORT=8000 \\
    BANDIT_SERVE_DATA=/data/service
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 \\
    CMD ["python", "-I", "/opt/bandit-serve/healthcheck.py"]
ENTRYPOINT ["bandit-serve"]
CMD ["serve"]
"""

SERVING = f"""\
ARG BASE
FROM ${{BASE}}
COPY bundle {BUNDLE}
ENV BANDIT_SERVE_BUNDLE={BUNDLE}
"""


class WantedImage(NamedTuple):
    """What is to be built. Without a wheel, it is of the package that runs. `network` is that of the build."""

    tag: str
    wheel: Path | None = None
    base: str = BASE
    network: str | None = None

    def checked(self) -> WantedImage:
        """Returns itself; raises `UsageError` for a wheel that is none."""
        if self.wheel is not None and not (self.wheel.suffix == ".whl" and self.wheel.is_file()):
            raise UsageError(f"--wheel: expected a file that ends in .whl, not {self.wheel}.")
        return self


def build(
    address: str, wanted: WantedImage, version: Version | None = None, artifacts: ArtifactStore | None = None
) -> BuiltImage:
    """Builds an image, with a version's model inside if one is given. Its tag is set when all of it is there.

    Blocks, for a minute or more. Raises as `engine_at` does.
    """
    wanted = wanted.checked()
    extras = ("embedded",) if version is None or version.family != ONNX else ("embedded", ONNX)
    with engine_at(address, timeout_s=BUILD_TIMEOUT_S) as client, TemporaryDirectory() as folder:
        context = Path(folder)
        constraints = ""
        if wanted.wheel is None:
            write_running_wheel(context)
            constraints = running_constraints()
        else:
            shutil.copyfile(wanted.wheel, context / wanted.wheel.name)
        (context / "constraints.txt").write_text(constraints)
        for program in PROGRAMS:
            text = resources.files("bandit_serve.deployments").joinpath(program).read_text()
            (context / program).write_text(text)
        dockerfile = SERVICE.replace("@EXTRAS@", ",".join(extras))
        tag = wanted.tag if version is None else None
        labels = {**_about(), EXTRAS: ",".join(extras)}
        image = _built(client, context, dockerfile, wanted.base, tag, labels, wanted.network)
        if version is not None:
            assert artifacts is not None
            image = with_model(client, image.id, version, artifacts, tag=wanted.tag)
        collect(client)
        if version is None:
            return BuiltImage(wanted.tag, image.id, image.attrs["Size"])
        return BuiltImage(
            wanted.tag, image.id, image.attrs["Size"], version.model, version.version, version.sha256
        )


def with_model(
    client: Any, base: str, version: Version, artifacts: ArtifactStore, *, tag: str | None = None
) -> Any:
    """Makes an image of another one and of a version's model."""
    with TemporaryDirectory() as folder:
        bundled = write_bundle(Path(folder, "bundle"), version, artifacts)
        return _built(client, Path(folder), SERVING, base, tag, {**_about(), **_labels(bundled)}, None)


def image_for(client: Any, name: str, version: Version | None, artifacts: ArtifactStore | None) -> Any:
    """Image of this name that serves the version; one that serves no model is the base of another, which is made.

    Raises `NotFound`, and `Conflict` for an image that serves another model or can not serve this one.
    """
    image = found(client, name)
    if version is None:
        return image
    labels = image.labels
    if SHA256 in labels:
        if (labels[MODEL], labels[VERSION], labels[SHA256]) != (
            version.model,
            version.version,
            version.sha256,
        ):
            raise Conflict(
                f"The image {name} serves {labels[MODEL]} {labels[VERSION]} of another file than "
                f"{version.model} {version.version}; build it again."
            )
        return image
    if LABEL not in labels:
        raise Conflict(
            f"The image {name} is not of `bandit-serve deploy build`, so no model can be put into it."
        )
    if version.family == ONNX and ONNX not in labels.get(EXTRAS, "").split(","):
        raise Conflict(
            f"The image {name} has no onnxruntime; build one with --model {version.model} --version {version.version}."
        )
    assert artifacts is not None
    return with_model(client, image.id, version, artifacts)


def found(client: Any, name: str) -> Any:
    """Image of this name in the engine; raises `NotFound`. Nothing is fetched from a registry."""
    images = client.images.list(name=name) or [
        each for each in client.images.list() if each.id.removeprefix("sha256:").startswith(name)
    ]
    if not images:
        raise NotFound(
            f"The engine has no image {name}: build it with `bandit-serve deploy build --tag {name}`, or pull it."
        )
    return images[0]


def collect(client: Any) -> list[str]:
    """Removes our images that have no name any more, unless a container or a living command needs them.

    Returns their ids. Of this process, none may be on its way to a container meanwhile.
    """
    used = {each.attrs["ImageID"] for each in client.containers.list(all=True, sparse=True)}
    gone = []
    for image in client.images.list(filters={"dangling": True, "label": LABEL}):
        maker = image.labels.get(MAKER, "")
        if image.id not in used and (maker == this_process() or is_abandoned(maker)):
            client.images.remove(image.id)
            gone.append(image.id)
    return gone


def _built(
    client: Any,
    context: Path,
    dockerfile: str,
    base: str,
    tag: str | None,
    labels: Mapping[str, str],
    network: str | None,
) -> Any:
    (context / "Dockerfile").write_text(dockerfile)
    image, _ = client.images.build(
        path=str(context),
        tag=tag,
        buildargs={"BASE": base, "MAKER": this_process()},
        labels=dict(labels),
        network_mode=network,
        rm=True,
        forcerm=True,
    )
    return image


def _about() -> dict[str, str]:
    return {
        LABEL: "1",
        MAKER: this_process(),
        "org.opencontainers.image.title": "bandit_serve",
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.licenses": "Apache-2.0",
    }


def _labels(bundled: Bundled) -> dict[str, str]:
    return {MODEL: bundled.model, VERSION: bundled.version, SHA256: bundled.sha256}
