"""The command line in the test's own process."""

from typing import Any

from typer.testing import CliRunner

from saliency_i2ploc_ros.cli.main import app


def i2ploc(*arguments: Any, code: int = 0) -> str:
    """Return what a command prints; what it raises is raised, and another exit code fails."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, done.output
    return done.output
