"""The compiled programs of a request, each made once, and off a CPU before they are needed."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterable, Sequence

import jax

from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training import interrupts
from zsharp_jax.benchmark.training.device_data import on_device, on_device_at_once
from zsharp_jax.benchmark.training.images import RunImages
from zsharp_jax.benchmark.training.program import Program

Compile = Callable[..., Program]
Key = tuple[Settings, int | None]


def program_key(settings: Settings) -> Settings:
    """What the runs of one program have in common: all but seed and rho."""
    return dataclasses.replace(settings, seed=0, rho=0.0)


class Programs:
    """Use it in a `with` block. After the block no further program is compiled.

    Args:
        compile: `compile_program`.
        images: Of all runs.
        tell: Called with what is being done.
    """

    def __init__(self, compile: Compile, images: RunImages, tell: Callable[[str], None]) -> None:
        self._compile, self._images, self._tell = compile, images, tell
        self._made: dict[Key, Program] = {}
        self._begun: dict[Key, concurrent.futures.Future[Program]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(thread_name_prefix=interrupts.COMPILES)

    def __enter__(self) -> "Programs":
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, groups: Iterable[Sequence[Settings]]) -> None:
        """Begins to compile what groups of runs will need, in threads; not on a CPU, where this
        would take time from the runs."""
        if jax.default_backend() == "cpu":
            return
        images = None
        for group in groups:
            key = _key(group)
            if key not in self._begun:
                images = images or self._images.of(group[0])  # any of the same shapes
                self._begun[key] = self._pool.submit(self._call, key, images)

    def of(self, group: Sequence[Settings]) -> Program:
        """The program of runs that differ in seed and rho alone, with their images."""
        key = _key(group)
        if key not in self._made:
            self._tell(f"{group[0].method}: compiling")
            if key in self._begun:
                self._made[key] = self._begun[key].result()
            else:
                self._made[key] = self._call(key, self._images.of(group[0]))
        program = self._made[key]
        return dataclasses.replace(program, data=self._data(group))

    def _call(self, key, images):
        settings, at_once = key
        return self._compile(settings, images, *([] if at_once is None else [at_once]))

    def _data(self, group):
        if len(group) == 1 or not group[0].draws_images:
            return on_device(self._images.of(group[0]))
        return on_device_at_once(tuple(self._images.of(settings) for settings in group))


def _key(group: Sequence[Settings]) -> Key:
    return program_key(group[0]), None if len(group) == 1 else len(group)
