"""The entry of `zsharp-bench`, and how it ends.

It exits with 0 where all went well, and where SIGTERM ended it and all is kept; with 1 where a run
failed or a result could not be written, with 2 where the request could not be met, and with 130
after Ctrl-C. The commands import what they need when they run, so that help is there at once and
without the extras. What went wrong is said in one line.
"""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from zsharp_jax.benchmark.commands import parser
from zsharp_jax.benchmark.errors import OutputError, RequestError, to_install
from zsharp_jax.benchmark.training import interrupts


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ε
    try:
        with interrupts.remembered():
            code = parser.execute(arguments)
            sys.stdout.flush()
        _exit(code)
    except RequestError as error:
        _say(str(error))
        _exit(2)
    except ModuleNotFoundError as error:
        _say(f"{str(error.name).split('.')[0]} is missing: {to_install('bench')}")
        _exit(2)
    except BrokenPipeError:  # whoever read the output has gone, and the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(1)
    except interrupts.Terminated as stop:
        _say(str(stop), kind="")
        if stop.by_hand:
            _exit_at_once(130)
        _exit(0)
    except OutputError as error:
        _say(str(error))
        _exit(1)
    except OSError as error:
        _say(f"{error.strerror or error}: {error.filename}")
        _exit(1)
    except KeyboardInterrupt:
        _say("interrupted; runs that had finished are kept", kind="")
        _exit_at_once(130)


def _exit(code: int) -> NoReturn:
    if interrupts.compiles():
        _exit_at_once(code)
    sys.exit(code)


def _exit_at_once(code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # who read it may be gone
        sys.stdout.flush()
    # Not `sys.exit`: XLA may still compile in a thread, and crashes where Python tidies up.
    os._exit(code)


def _say(message: str, kind: str = "error: ") -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # this is the last line, also where both go to one file
    print(f"zsharp-bench: {kind}{' '.join(message.split())}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
