"""Commands `bandit-serve keys`: who may call the service, and what for."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec import Struct

from bandit_serve.api.keys import CreatedKey, KeyList, key_view
from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.base.terminal import print_line
from bandit_serve.cli.access import actor, store_name
from bandit_serve.cli.command import AsJson, of_existing_store, with_state
from bandit_serve.cli.output import print_json, print_table, say, short_time
from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.node import Node
from bandit_serve.registry.api_keys import Scope

app = typer.Typer(help="Keys of callers: once there is one, every request needs one.", no_args_is_help=True)


class Revoked(Struct, frozen=True):
    revoked: str


@app.command()
@with_state
async def create(
    node: Node,
    scope: Annotated[
        Scope,
        typer.Option(
            help="serve: decisions, predictions, rewards and exposures. read: what GET answers. admin: everything.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="What the history calls the caller (default: the key's id).")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="The tenant that it is of (default: it is of the service itself).")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, as 30d (default: until it is revoked).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key and prints it, this once. Running workers know it when the command returns."""
    try:
        made = await node.key_changes.create(name, scope, _life_ms(expires), actor(), tenant)
    except InvalidInput as error:
        raise UsageError(str(error)) from None
    if as_json:
        print_json(CreatedKey(made.event.id, made.text))
        return
    whose = "" if tenant is None else f" of the tenant {tenant}"
    say(f"Key {made.event.id}{whose} with the scope {scope}. It is shown this once:")
    print_line(made.text)


@app.command("list")
@with_state
@of_existing_store
async def list_all(
    node: Node,
    tenant: Annotated[str | None, typer.Option(help="Only those of this tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Lists the keys, without their secrets."""
    keys = await node.key_changes.known()
    now_ms = await node.store.time_ms()
    views = [key_view(key, now_ms) for key in keys.values() if tenant in (None, key.tenant)]
    if as_json:
        print_json(KeyList(views))
    elif not keys:
        say(f"There is no key in {store_name(node.settings)}: whoever reaches the service may use it.")
    else:
        rows = [
            (
                each.id,
                each.name,
                each.scope,
                each.tenant or "",
                each.status,
                short_time(each.created_at),
                "never" if each.expires_at is None else short_time(each.expires_at),
            )
            for each in views
        ]
        columns = ("Key", "Name", "Scope", "Tenant", "Status", "Created", "Expires")
        print_table(columns, rows, whole=("Key", "Scope", "Status", "Created", "Expires"))


@app.command()
@with_state
@of_existing_store
async def revoke(
    node: Node,
    id: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.", show_default=False)],
    tenant: Annotated[str | None, typer.Option(help="Only if it is of this tenant.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ends a key. Running workers refuse it when the command returns."""
    is_new = await node.key_changes.revoke(id, actor(), tenant)
    if as_json:
        print_json(Revoked(id))
    else:
        say(f"{id} is refused from now on." if is_new else f"{id} was revoked before.")


def _life_ms(expires: str | None) -> int | None:
    try:
        return None if expires is None else parse_duration_ms(expires)
    except InvalidInput as error:
        raise UsageError(f"--expires: {error}.") from None
