"""``mlops completion``."""

from __future__ import annotations

import click

from mlops.cli.options import Documented

__all__ = ["command"]


@click.command(
    "completion",
    cls=Documented,
    examples=[
        ('eval "$(mlops completion bash)"', "in this shell: bash, zsh, fish"),
        ('eval "$(mlops completion zsh)"', ""),
        ("mlops completion fish | source", ""),
        ("mlops completion bash > ~/.local/share/bash-completion/completions/mlops", "in every shell to come"),
        ('mlops completion zsh > "${fpath[1]}/_mlops"', ""),
        ("mlops completion fish > ~/.config/fish/completions/mlops.fish", ""),
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print what teaches a shell to complete mlops, its options and the runs."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice above allows only what click has
    click.echo(kind(ctx.find_root().command, {}, "mlops", "_MLOPS_COMPLETE").source())
