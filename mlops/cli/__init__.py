"""The command line: ``mlops …``.

One module a command, loaded when it is called: ``mlops --help`` imports click and nothing else.
"""

from mlops.cli.manual import COMMANDS, cli, main

__all__ = ["COMMANDS", "cli", "main"]
