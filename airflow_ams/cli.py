"""The command ``airflow-ams``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

from airflow_ams import __version__
from airflow_ams.emulator.settings import APIS

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="airflow-ams")
def main() -> None:
    """Wait for media jobs in Apache Airflow, and try it without a media service."""


@main.command(context_settings={"show_default": True})
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8765, type=click.IntRange(0, 65535), help="Port to listen on; 0 picks one.")
@click.option(
    "--front-port",
    type=click.IntRange(0, 65535),
    help="Port of the old global front host, which answers 301; 0 picks one.  [default: none]",
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="NAME:KEY",
    help="An account and its key; repeatable. Instead: AIRFLOW_AMS_EMULATOR_ACCOUNTS, separated by commas.  "
    "[default: 'emulator' with a random key]",
)
@click.option(
    "--token-lifetime",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long a token is good.  [default: 21600 (ACS), 3600 (Entra, RMS)]",
)
@click.option(
    "--units", default=1, type=click.IntRange(min=1), help="Encodes that run at once; the rest stay Queued."
)
@click.option("--media", type=_FOLDER, help="Folder whose files are assets of every account.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder that keeps all over a restart.  [default: in memory]",
)
@click.option("--faults", type=_FILE, help="JSON file of fault rules.")
@click.option("--seed", type=int, help="Makes fault rules with a rate repeatable.")
@click.option(
    "--api",
    default="v2",
    type=click.Choice(APIS),
    help="The service whose connection is printed; all are served.",
)
@click.option("--ssl-certfile", type=_FILE, help="PEM certificate: speak https.")
@click.option("--ssl-keyfile", type=_FILE, help="PEM key of the certificate.")
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
def emulator(
    host: str,
    port: int,
    front_port: int | None,
    accounts: tuple[str, ...],
    token_lifetime: float | None,
    units: int,
    media: Path | None,
    data: Path | None,
    faults: Path | None,
    seed: int | None,
    api: str,
    ssl_certfile: Path | None,
    ssl_keyfile: Path | None,
    until_stdin_closes: bool,
) -> None:
    """Run a media service on this machine: real HTTP, real encoding.

    Prints the connection to paste into the shell that runs Airflow, then logs one line a request.

    Example:  airflow-ams emulator --media ~/Videos --units 2
    """
    if not all(find_spec(name) for name in ("starlette", "uvicorn", "imageio_ffmpeg")):
        click.echo("The emulator is an extra: pip install 'airflow-ams[emulator]'", err=True)
        sys.exit(2)
    # Not at the top: the other commands do not need the extra.
    from airflow_ams.emulator.errors import EmulatorError
    from airflow_ams.emulator.server import run
    from airflow_ams.emulator.settings import Settings, read_accounts

    try:
        settings = Settings(
            accounts=read_accounts(accounts),
            host=host,
            port=port,
            front_port=front_port,
            token_lifetime=token_lifetime,
            units=units,
            media=media,
            data=data,
            faults=faults,
            seed=seed,
            api=api,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
        )
        run(settings, until_stdin_closes=until_stdin_closes)
    except (OSError, ValueError, EmulatorError) as error:
        raise click.ClickException(str(error)) from None


@main.command(context_settings={"show_default": True})
@click.option("--input", "clip", type=_FILE, help="Video to encode.  [default: a test clip of 10 s]")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to leave the encoded files in.  [default: they are deleted]",
)
@click.option(
    "--time-limit",
    default=900.0,
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="When to give up.",
)
@click.option(
    "--api",
    default="v2",
    type=click.Choice(["v2", "rms", "mkio"]),
    help="Which service: Azure Media Services v2, Ravnur RMS or MediaKind MK.IO.",
)
def demo(clip: Path | None, output: Path | None, time_limit: float, api: str) -> None:
    """Encode one video, waited for by a DAG in a real Airflow.

    Airflow and the media service run on this machine, in a temporary folder. Exits with 0 when the encode
    finished and the task behind the sensor ran, with 1 when it failed.

    Example:  airflow-ams demo --input holiday.mp4 --output encoded
    """
    if not all(find_spec(name) for name in ("starlette", "uvicorn", "imageio_ffmpeg", "rich")):
        click.echo("The demo is an extra: pip install 'airflow-ams[demo]'", err=True)
        sys.exit(2)
    try:
        from airflow_ams.demo import run_demo

        sys.exit(run_demo(clip, output, time_limit, api))
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
        sys.exit(130)
