"""URL of a store: its kind, its addresses and credentials."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bandit_serve.errors import UsageError

Kind = Literal["single", "sentinel", "cluster"]

DEFAULT_PORT = 6379
SENTINEL_PORT = 26379
MAX_ADDRESSES = 64
KINDS: dict[str, Kind] = {
    "redis": "single",
    "rediss": "single",
    "unix": "single",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
SCHEMES = "redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// (with TLS rediss+…)"
# The only query arguments that are allowed: redis-py would take any of its own from the URL, retries among them.
CREDENTIALS = ("username", "password")
OF_SENTINELS = ("sentinel_username", "sentinel_password")
TLS = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
CERT_REQS = ("none", "optional", "required")
BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Address(NamedTuple):
    """Host and port of a server."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """Addresses and credentials of a store. Neither `str` nor `repr` shows a password.

    `host` and `port` are the first address, `others` the rest: of sentinels, or of some nodes of a cluster. `service`
    is what the sentinels call the master. The credentials are those of the servers; sentinels that ask for a login and
    have none of their own in the URL get these, too.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: tuple[tuple[str, str | bool], ...] = ()
    others: tuple[Address, ...] = ()
    service: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        place = ",".join(map(str, self.addresses))
        path = {"cluster": "", "sentinel": f"/{self.service}/{self.db}", "single": f"/{self.db}"}[self.kind]
        return f"{self.scheme}://{place}{path}"

    @property
    def kind(self) -> Kind:
        return KINDS[self.scheme]

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Addresses in the URL; empty for a unix socket."""
        return () if self.scheme == "unix" else (Address(self.host, self.port), *self.others)

    @property
    def encrypted(self) -> bool:
        return self.scheme.startswith("rediss")


def parse_store_url(url: str) -> StoreUrl:
    """Reads a store's URL, in one of five forms:

    - `redis://[user:password@]host[:port][/db]`, with TLS `rediss://`;
    - `unix:///path[?db=n&password=…]`;
    - `redis+sentinel://[user:password@]host[:port][,host[:port]…]/SERVICE[/db]`, with TLS `rediss+sentinel://`;
    - `redis+cluster://[user:password@]host[:port][,host[:port]…]`, with TLS `rediss+cluster://`.

    Query arguments: `db`, `username`, `password`, with TLS redis-py's `ssl_*` files and checks, and for sentinels that
    have a login of their own `sentinel_username` and `sentinel_password`. Raises UsageError. No message quotes the URL:
    in a malformed one, any piece may belong to the password.
    """
    try:
        parts = urlsplit(url)
        kind = KINDS.get(parts.scheme)
        user, _, place = parts.netloc.rpartition("@")
        pieces = [place] if kind == "single" else place.split(",")
        addresses = [
            _address(piece, SENTINEL_PORT if kind == "sentinel" else DEFAULT_PORT) for piece in pieces
        ]
    except ValueError:
        raise UsageError(
            "The store's URL cannot be read: write special characters in a password as %xx, "
            "and the port as a number."
        ) from None
    if kind is None:
        raise UsageError(f"The store's URL must begin with {SCHEMES}.")
    if parts.fragment:
        raise UsageError("The store's URL has a '#' in it: write it as %23.")
    name, _, secret = user.partition(":")
    query = _query(parts.scheme, kind, parts.query)
    login: dict[str, Any] = {
        "username": query.pop("username", None) or unquote(name) or None,
        "password": query.pop("password", None) or unquote(secret) or None,
        "sentinel_username": query.pop("sentinel_username", None),
        "sentinel_password": query.pop("sentinel_password", None),
    }
    if parts.scheme == "unix":
        if place or not parts.path.startswith("/"):
            raise UsageError("A unix:// store is named by an absolute path: unix:///path/to/store.sock.")
        return StoreUrl("unix", path=unquote(parts.path), db=_database(query.get("db", "0")), **login)
    if kind != "single":
        _check_addresses(kind, addresses)
    service, db = _service_and_database(kind, parts, query.pop("db", ""))
    first, *others = addresses
    return StoreUrl(
        parts.scheme,
        host=first.host or "localhost",
        port=first.port,
        db=db,
        tls=tuple(sorted((name, _tls_value(name, value)) for name, value in query.items())),
        others=tuple(others),
        service=service,
        **login,
    )


def _address(text: str, port: int) -> Address:
    """Raises ValueError where the port is none."""
    parts = urlsplit(f"//{text}")
    return Address(unquote(parts.hostname or ""), port if parts.port is None else parts.port)


def _check_addresses(kind: Kind, addresses: list[Address]) -> None:
    whose = "the sentinels" if kind == "sentinel" else "some nodes of the cluster"
    if not all(address.host for address in addresses):
        raise UsageError(f"The store's URL must name {whose}, as host:port,host:port.")
    if len(addresses) > MAX_ADDRESSES:
        raise UsageError(f"The store's URL has {len(addresses)} addresses: {MAX_ADDRESSES} are enough.")


def _service_and_database(kind: Kind, parts: SplitResult, given: str) -> tuple[str, int]:
    path = parts.path.strip("/")
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise UsageError(
                "A store behind sentinels is named by its service: redis+sentinel://host:port,host:port/SERVICE."
            )
        return unquote(service), _database(given or path or "0")
    database = _database(given or path or "0")
    if kind == "cluster" and database:
        raise UsageError("A Redis Cluster has one database, 0: leave the number out of the store's URL.")
    return "", database


def _query(scheme: str, kind: Kind, text: str) -> dict[str, str]:
    allowed: tuple[str, ...] = ("db", *CREDENTIALS)
    if kind == "sentinel":
        allowed += OF_SENTINELS
    if scheme.startswith("rediss"):
        allowed += TLS
    query: dict[str, str] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in allowed:
            raise UsageError(f"The store's URL has an argument other than {', '.join(allowed)}.")
        query[name] = value
    return query


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UsageError("The database in the store's URL must be a number.")
    return int(text)


def _tls_value(name: str, value: str) -> str | bool:
    if name == "ssl_check_hostname":
        if value.lower() not in BOOLEANS:
            raise UsageError(f"{name} in the store's URL must be true or false.")
        return BOOLEANS[value.lower()]
    if name == "ssl_cert_reqs" and value not in CERT_REQS:
        raise UsageError(f"{name} in the store's URL must be one of {', '.join(CERT_REQS)}.")
    return value
