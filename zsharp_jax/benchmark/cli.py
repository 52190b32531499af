"""The entry of `zsharp-bench`, and how it ends.

It exits with 0 where all went well, and where SIGTERM ended it and all is kept; with 1 where a run
failed or a result could not be written, with 2 where the request could not be met, and with 130
after Ctrl-C. What went wrong is said in one line.
"""

import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from zsharp_jax.benchmark import interrupts
from zsharp_jax.benchmark.errors import OutputError, RequestError


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no ε
    try:
        with interrupts.remembered():
            # In here, since Flax takes a second to import, and may not be there.
            from zsharp_jax.benchmark import commands

            code = commands.execute(arguments)
            sys.stdout.flush()
        sys.exit(code)
    except RequestError as error:
        _say(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        _say(f'{str(error.name).split(".")[0]} is missing: pip install "zsharp-jax[bench]"')
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output has gone, and the files are written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except interrupts.Terminated as stop:
        _say(str(stop), kind="")
        sys.exit(0)
    except OutputError as error:
        _say(str(error))
        sys.exit(1)
    except OSError as error:
        _say(f"{error.strerror or error}: {error.filename}")
        sys.exit(1)
    except KeyboardInterrupt:
        _say("interrupted; runs that had finished are kept", kind="")
        sys.stdout.flush()
        # Not `sys.exit`: XLA may still compile in a thread, and crashes where Python tidies up.
        os._exit(130)


def _say(message: str, kind: str = "error: ") -> None:
    print(f"zsharp-bench: {kind}{' '.join(message.split())}", file=sys.stderr, flush=True)
