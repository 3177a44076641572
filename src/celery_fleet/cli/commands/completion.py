"""``celery-fleet completion``: the script with which a shell completes the command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from celery_fleet.cli.options import with_examples


@click.command(
    help=with_examples(
        "Print the script with which SHELL completes this command.",
        (
            'eval "$(celery-fleet completion bash)"      # in ~/.bashrc',
            "celery-fleet completion fish | source",
        ),
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes this command."""
    found = get_completion_class(shell)
    if found is None:  # pragma: no cover - click brings all three
        raise click.UsageError(f"click can't complete in {shell}")
    # Not its source(), which starts the shell to find out its version.
    made = found(context.find_root().command, {}, "celery-fleet", "_CELERY_FLEET_COMPLETE")
    click.echo(made.source_template % made.source_vars())
