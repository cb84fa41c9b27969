"""`jobplatform completion`: shell completion of commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of SHELL; source it at start.

    \b
    bash:  eval "$(jobplatform completion bash)"      in ~/.bashrc
    zsh:   eval "$(jobplatform completion zsh)"       in ~/.zshrc
    fish:  jobplatform completion fish > ~/.config/fish/completions/jobplatform.fish
    """
    from click.shell_completion import get_completion_class

    from jobplatform.cli.main import cli

    completion_class = get_completion_class(shell)
    assert completion_class is not None
    click.echo(completion_class(cli, {}, "jobplatform", "_JOBPLATFORM_COMPLETE").source())
