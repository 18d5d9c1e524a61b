"""Run one command from the words of a command line to its exit code. It knows nothing of how a command works."""

import gc
import itertools
import os
import signal
import sys
import threading
from collections.abc import Sequence

from predboard.cli.commands import COMMANDS, summary_line
from predboard.cli.parser import parse
from predboard.cli.signals import Stopped
from predboard.errors import InputError, one_line
from predboard.formatting import did_you_mean
from predboard.invocation import as_typed, with_make_variables
from predboard.streams import lost_output


def main() -> None:
    """Run the command that the process was started with, and end the process."""
    code = run(sys.argv[1:])
    sys.stdout.flush()
    if code != 2 and (reason := lost_output()):
        print(f"predboard: what it printed is incomplete: cannot write to standard output: {reason}", file=sys.stderr)
    gc.freeze()  # else the interpreter looks for garbage among all modules before it ends: a second where timm is
    left = [thread for thread in threading.enumerate() if thread.name == "predboard"]
    for thread in left:
        thread.join(0.2)
    if any(thread.is_alive() for thread in left):
        # It waits for a file that hangs. Python would not wait for it, but the storage client would, for minutes.
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Returns:
        the exit code: 0 success, 1 the result is not what was asked for, 2 bad input, 3 a gate has too little evidence,
        130 interrupted, 143 terminated.
    """
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            _print_usage()
            return 0
        if arguments[0] == "--version":
            import importlib.metadata  # 15 ms, for this alone

            print(f"predboard {importlib.metadata.version('predboard')}")
            return 0
        name, *flags = arguments
        if name not in COMMANDS:
            raise InputError(f"no command {name!r}; there are: {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)}")
        command = COMMANDS[name]
        return command.run(parse(name, command.config, flags))
    except InputError as error:
        message = with_make_variables(one_line(str(error)), arguments[0])
        print(f"predboard: {as_typed(message)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number = stop.args[0] if isinstance(stop, Stopped) else signal.SIGINT
        how = "terminated" if number == signal.SIGTERM else "interrupted"
        print(f"predboard: {how}; what was written is safe: run the same command to continue", file=sys.stderr)
        return 128 + number


def _print_usage() -> None:
    print("predboard: see where your image classifier is wrong, in TensorBoard")
    for purpose, commands in itertools.groupby(COMMANDS.items(), lambda item: item[1].purpose):
        print(f"\n{purpose}:")
        for name, command in commands:
            print(f"  predboard {name:<10} {summary_line(command.config)}")
    print("\npredboard COMMAND --help lists the flags; every command also reads them from --config FILE.toml.")
