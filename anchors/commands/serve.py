"""`anchors serve`."""

from __future__ import annotations

import json
import webbrowser
from typing import Annotated

import typer

from anchors.commands.options import Json, Quiet, RunFolder, quiet_logging


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(serve)


def serve(
    run: RunFolder,
    port: Annotated[int, typer.Option(help="0 takes a free one")] = 0,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="open it in a browser")] = True,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Watch a running job in a browser: read-only, on this machine only, until Ctrl-C."""
    from anchors.report.serving import live_server

    quiet_logging(quiet)
    server = live_server(run, port=port)
    address = "http://{}:{}/".format(*server.server_address)
    if json_output:
        typer.echo(json.dumps({"run": str(run), "address": address}))
    else:
        typer.echo(address if quiet else f"{address}  (Ctrl-C stops the view, not the job)")
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if not (quiet or json_output):
            typer.echo("stopped")
    finally:
        server.server_close()
