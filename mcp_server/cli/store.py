"""`casemate store`: move everything between the file in the data directory and MongoDB. No server may run meanwhile."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_server.settings import Settings
from storage.copy import copy_store

from ..data_dir_lock import lock_data_dir
from .console import CliError, err, run, show_json, show_table
from .options import AsJson

if TYPE_CHECKING:
    from storage.collection import Database

app = typer.Typer(help="The store of accounts, keys and records.", no_args_is_help=True)


class Kind(StrEnum):
    """Where a store can be."""

    SQLITE = "sqlite"
    MONGODB = "mongodb"


@app.callback()
def store() -> None:
    """The store of accounts, keys and records."""


@app.command()
def copy(
    source: Annotated[Kind, typer.Option("--from", help="Where everything is.")],
    target: Annotated[Kind, typer.Option("--to", help="Where it goes; nothing else may be there.")],
    as_json: AsJson = False,
) -> None:
    """Copy everything from one store to the other, and compare the counts. What was interrupted can be run again.

    The file is the one of CASEMATE_DATA; the database is that of MONGO_URI and MONGO_DB, or CASEMATE_MONGO_URI_FILE.
    """
    if source is target:
        raise CliError(f"--from and --to are both {source}: one is sqlite and the other mongodb")
    settings = Settings.load()
    if settings.mongo_uri is None:
        raise CliError(
            "There is no address of MongoDB: set MONGO_URI, or CASEMATE_MONGO_URI_FILE to a file that holds it"
        )
    if not settings.data.is_dir():
        raise CliError(f"CASEMATE_DATA={settings.data} is no directory: set it to the one that holds the store")

    async def work() -> dict[str, int]:
        # Late: with the collections comes the whole server.
        from mcp_server.app import COLLECTIONS, mongo_database, sqlite_database  # noqa: PLC0415

        with lock_data_dir(settings.data):
            async with sqlite_database(settings) as file, mongo_database(settings) as server:
                stores: tuple[Database, Database] = (file, server)
                old, new = stores if source is Kind.SQLITE else stores[::-1]
                return await copy_store(old, new, COLLECTIONS, tell=_tell)

    copied = run(work)
    if as_json:
        show_json({"copied": copied})
    else:
        show_table([("collection", "documents"), *((name, str(count)) for name, count in copied.items())])


def _tell(collection: str, count: int) -> None:
    err.print(f"{collection}: {count}", markup=False)
