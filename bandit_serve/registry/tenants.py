"""Places of tenants. Each has a namespace of its own in the store, and a folder of its own in the data directory.

So nothing that is kept for one can be met by another: logs, snapshots, keys of tokens, model files, caches.
"""

from __future__ import annotations

import re

import msgspec

from bandit_serve.registry.artifact_store import IN_THE_STORE
from bandit_serve.settings import Settings
from bandit_serve.store.keys import OF_TENANT

_CAPITAL = re.compile("[A-Z]")


def settings_of(settings: Settings, tenant: str) -> Settings:
    """Settings under which a tenant's part of the service works. Names match `NAME_PATTERN`.

    Whoever runs containers owns the machine, so no tenant does.
    """
    artifacts = settings.artifacts
    if artifacts is not None and artifacts != IN_THE_STORE:
        artifacts = f"{artifacts.rstrip('/')}/tenants/{tenant}"
    return msgspec.structs.replace(
        settings,
        namespace=f"{settings.namespace}{OF_TENANT}{tenant}",
        data=str(settings.data_dir / "tenants" / _folder(tenant)),
        artifacts=artifacts,
        learners=None,
        retrain=None,
        docker=None,
        bundle=None,
    )


def _folder(tenant: str) -> str:
    """Name of a tenant's folder. Where a file system takes `Shop` for `shop`, two tenants must not share one."""
    return _CAPITAL.sub(lambda capital: f"^{capital[0].lower()}", tenant)
