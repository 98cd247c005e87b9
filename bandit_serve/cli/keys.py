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
from bandit_serve.errors import InvalidInput, NotBuilt, UsageError
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
    tenant: Annotated[str | None, typer.Option(help="Whose it is (not built yet).")] = None,
    expires: Annotated[
        str | None, typer.Option(help="How long it is valid, as 30d (default: until it is revoked).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Makes a key and prints it, this once. Running workers know it when the command returns."""
    if tenant is not None:
        raise NotBuilt("--tenant is part of the contract but not built yet.")
    made = await node.key_changes.create(name, scope, _life_ms(expires), actor())
    if as_json:
        print_json(CreatedKey(made.event.id, made.text))
        return
    say(f"Key {made.event.id} with the scope {scope}. It is shown this once:")
    print_line(made.text)


@app.command("list")
@with_state
@of_existing_store
async def list_all(node: Node, as_json: AsJson = False) -> None:
    """Lists the keys, without their secrets."""
    keys = await node.key_changes.known()
    now_ms = await node.store.time_ms()
    views = [key_view(key, now_ms) for key in keys.values()]
    if as_json:
        print_json(KeyList(views))
    elif not views:
        say(f"There is no key in {store_name(node.settings)}: whoever reaches the service may use it.")
    else:
        rows = [
            (
                each.id,
                each.name,
                each.scope,
                each.status,
                short_time(each.created_at),
                "never" if each.expires_at is None else short_time(each.expires_at),
            )
            for each in views
        ]
        columns = ("Key", "Name", "Scope", "Status", "Created", "Expires")
        print_table(columns, rows, whole=("Key", "Scope", "Status", "Created", "Expires"))


@app.command()
@with_state
@of_existing_store
async def revoke(
    node: Node,
    id: Annotated[str, typer.Argument(help="The key's id, as `list` shows it.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Ends a key. Running workers refuse it when the command returns."""
    is_new = await node.key_changes.revoke(id, actor())
    if as_json:
        print_json(Revoked(id))
    else:
        say(f"{id} is refused from now on." if is_new else f"{id} was revoked before.")


def _life_ms(expires: str | None) -> int | None:
    try:
        return None if expires is None else parse_duration_ms(expires)
    except InvalidInput as error:
        raise UsageError(f"--expires: {error}.") from None
