"""`casemate store`: move everything between the file in the data directory and MongoDB. No server may run meanwhile."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_server.occupancy import occupy
from mcp_server.settings import Settings

from .console import Trouble, err, run, show_json, show_table
from .options import AsJson

if TYPE_CHECKING:
    from storage.collection import Database

app = typer.Typer(help="The store of accounts, keys and records.", no_args_is_help=True)

_FILE = "casemate.db"


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
        raise Trouble(f"--from and --to are both {source}: one is sqlite and the other mongodb")
    settings = Settings.load()
    if settings.mongo_uri is None:
        raise Trouble(
            "There is no address of MongoDB: set MONGO_URI, or CASEMATE_MONGO_URI_FILE to a file that holds it"
        )
    if not settings.data.is_dir():
        raise Trouble(f"CASEMATE_DATA={settings.data} is no directory: set it to the one that holds the store")
    file = settings.data / _FILE
    if source is Kind.SQLITE and not file.exists():
        raise Trouble(f"There is no store at {file}: set CASEMATE_DATA to the directory that holds it")

    async def work() -> dict[str, int]:
        # Late: with the collections comes the whole server.
        from mcp_server.app import COLLECTIONS  # noqa: PLC0415
        from storage.copy import copy_store  # noqa: PLC0415

        with occupy(settings.data):
            async with AsyncExitStack() as stack:
                opened = {kind: await stack.enter_async_context(_database(kind, settings)) for kind in Kind}
                return await copy_store(opened[source], opened[target], COLLECTIONS, tell=_tell)

    copied = run(work)
    if as_json:
        show_json({"copied": copied})
    else:
        show_table([("collection", "documents"), *((name, str(count)) for name, count in copied.items())])


def _database(kind: Kind, settings: Settings) -> Database:
    # Late: the driver of MongoDB is needed by nobody else here.
    from storage.mongo import MongoDatabase  # noqa: PLC0415
    from storage.sqlite import SqliteDatabase  # noqa: PLC0415

    if kind is Kind.SQLITE:
        return SqliteDatabase(settings.data / _FILE)
    assert settings.mongo_uri is not None
    return MongoDatabase(settings.mongo_uri.get_secret_value(), settings.mongo_db)


def _tell(collection: str, count: int) -> None:
    err.print(f"{collection}: {count}", markup=False)
