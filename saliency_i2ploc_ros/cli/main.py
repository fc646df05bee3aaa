"""The command `i2ploc`: what it offers, and how it fails."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import InputError
from . import (
    ablate,
    bag,
    build_map,
    calibrate,
    city,
    demo,
    evaluate,
    evaluate_bag,
    evaluate_sequence,
    export,
    localize,
    model,
    saliency,
    scene,
    show,
    train,
)

app = typer.Typer(
    name='i2ploc', no_args_is_help=True, add_completion=False, rich_markup_mode='markdown',
    pretty_exceptions_enable=False, context_settings={'help_option_names': ['-h', '--help']})


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option('--version', help='Print the version.')] = False,
    debug: Annotated[bool, typer.Option(
        '--debug', help='Show the traceback of an error; goes anywhere on the line.')] = False,
) -> None:
    """
    Where is this camera image in a LiDAR map? Train, map, localize, evaluate, replay.

    The way of the data: `city` or a data set -> `train` -> `build-map` -> `localize`, `evaluate`,
    or the ROS 2 nodes, with `bag` to feed them. `demo` goes the whole way in a few minutes.
    """
    if version:
        typer.echo(__version__)
        raise typer.Exit


for name, module in {
        'demo': demo, 'city': city, 'show': show, 'train': train, 'model': model,
        'build-map': build_map, 'calibrate': calibrate, 'localize': localize, 'evaluate': evaluate,
        'evaluate-bag': evaluate_bag, 'evaluate-sequence': evaluate_sequence, 'saliency': saliency,
        'scene': scene, 'ablate': ablate, 'export': export, 'bag': bag}.items():
    app.command(name)(module.command)


def main() -> None:
    """Run the command line; the user's mistakes become one line on stderr and exit code 1."""
    # So that SIGTERM unwinds too: temporary files go, worker processes end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    debug = '--debug' in sys.argv
    arguments = [a for a in sys.argv[1:] if a != '--debug']
    try:
        app(args=arguments, prog_name='i2ploc')
    except InputError as error:
        if debug:
            raise
        sys.exit(f'i2ploc: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe has gone (`i2ploc ... | head`): nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if debug:
            raise
        name = f'{error.filename}: ' if error.filename else ''
        sys.exit(f'i2ploc: {name}{error.strerror or error}')
    except Exception as error:
        if debug:
            raise
        sys.exit(f'i2ploc: a defect of this program, please report it with the output of the '
                 f'same command with --debug: {type(error).__name__}: {error}')


if __name__ == '__main__':
    main()
