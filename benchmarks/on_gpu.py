"""All that only a GPU can tell, in four minutes: laws, the filter's time, the steps' time, memory.

    python benchmarks/on_gpu.py --out on_gpu.json

Needs a checkout, the extra `bench` and a GPU. It writes its file after every part. When it is cut
off, or its minutes are over, the same command goes on where it was; what has been compiled is kept
in a folder beside the file. PyTorch is timed if it is installed. On a CPU, and with `--smoke`, it
takes every part in small, to see that the script works.
"""

import argparse
import concurrent.futures
import importlib.util
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import filter as filters
import gpu_laws
import jax
import jax.numpy as jnp
import launches
import networks
import side_by_side
import step as steps

from zsharp_jax._selection._filter import kept
from zsharp_jax._selection._in_place import thresholds_in_place
from zsharp_jax._selection._rows import thresholds_in_rows
from zsharp_jax._selection._threshold import Request

CONTENDERS = ("two gradients", "sam", "zsharp")
PARTS = ("laws", "filter", "steps")
_TOGETHER = 6  # programs: more of them would wait for the GPU, which tries kernels out, in turn
FILTER_HEADER = ("filter", "ms (median)", "quartiles", "turns", "over rows")
STEP_HEADER = ("network", "two gradients, ms", "sam, ms", "zsharp, ms", "zsharp / sam",
               "sam / two gradients", "MB sam", "MB zsharp")  # fmt: skip


class Size(NamedTuple):
    """How much is done.

    Attributes:
        networks: Whose steps are taken.
        filtered: Whose tensors are filtered.
        powers: Single tensors of 2^N entries are filtered too.
        largest_mask: The entries of the largest tensor whose mask is compared with NumPy's.
        golden: Of which ascents the golden numbers are checked.
        batch_size: Images of a step that is timed.
        law_batch_size: Images of a step that is compared with a CPU's.
        turns: Of each contender.
        most_seconds: That all turns of one filter may take.
        turn_seconds: That a turn of steps takes at least.
    """

    networks: tuple[str, ...]
    filtered: tuple[str, ...]
    powers: tuple[int, ...]
    largest_mask: int
    golden: tuple[str, ...]
    batch_size: int
    law_batch_size: int
    turns: int
    most_seconds: float
    turn_seconds: float


WHOLE = Size(
    networks=("vit_7_8_8_384", "vgg16_bn", "resnet56", "resnet20", "resnet110"),
    filtered=("vit_7_8_8_384", "vgg16_bn", "resnet110"),
    powers=(20, 25),
    largest_mask=1 << 25,
    golden=tuple(gpu_laws.golden_run.ASCENTS),
    batch_size=256,
    law_batch_size=32,
    turns=20,
    most_seconds=1.5,
    turn_seconds=0.05,
)
SMOKE = Size(
    networks=(networks.TINY,),
    filtered=(networks.TINY,),
    powers=(),
    largest_mask=100,
    golden=("zsharp",),
    batch_size=2,
    law_batch_size=2,
    turns=3,
    most_seconds=0.1,
    turn_seconds=0.0,
)


class Findings:
    """What has been found, in a file that is written after each part."""

    def __init__(self, path: pathlib.Path, made_by: dict[str, Any]) -> None:
        self._path = path
        self.parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        if path.exists():
            found = json.loads(path.read_text())
            if found["made_by"] != made_by:
                raise SystemExit(
                    f"{path} was made by {found['made_by']}, and this is {made_by}: delete it, or "
                    "name another file with --out."
                )
            self.parts = found["parts"]
        self._made_by = made_by

    def lacks(self, part: str, name: str) -> bool:
        return "failed" in self.parts[part].get(name, {"failed": "not yet tried"})

    def find(self, part: str, name: str, look: Callable[[], Any]) -> None:
        """Looks, unless that has been done, and writes down what is found or what went wrong."""
        if not self.lacks(part, name):
            return
        started = time.perf_counter()
        try:
            found = {"found": look()}
        except Exception as error:  # one part that fails must not cost the others
            found = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        seconds = time.perf_counter() - started
        self.parts[part][name] = {**found, "seconds": round(seconds, 2)}
        self._write()
        told = found.get("failed", "done")
        print(f"{part}: {name}: {told} ({seconds:.1f} s)", file=sys.stderr, flush=True)

    def _write(self) -> None:
        side_by_side.write_json(self._path, {"made_by": self._made_by, "parts": self.parts})


def main() -> None:
    parser = argparse.ArgumentParser(description="Checks and times what only a GPU can tell.")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("on_gpu.json"),
                        help="a JSON file; compiled programs lie beside it")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=4,
                        help="after which no further part is begun (default: 4)")  # fmt: skip
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--networks", nargs="+", default=WHOLE.networks, choices=WHOLE.networks,
                        help="whose steps are taken, in this order")  # fmt: skip
    parser.add_argument("--smoke", action="store_true", help="in small; on a CPU always")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes

    device = jax.devices()[0]
    is_small = options.smoke or device.platform == "cpu"
    made_by = {"code": launches.fingerprint(), "device": device.device_kind, "small": is_small}
    findings = Findings(options.out, made_by)
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(options.out.with_suffix(".compiled")))

    work = Work(SMOKE if is_small else WHOLE._replace(networks=tuple(options.networks)))
    todo = [each for each in work.parts() if each.part in options.parts]
    try:
        work.take(todo, findings, deadline)
    finally:
        work.stop()
    print(tables(findings.parts))
    left = [each.name for each in todo if findings.lacks(each.part, each.name)]
    if left:
        print(f"\nnot done: {', '.join(left)}; run the same command again to go on")
    failed = [name for part in PARTS for name, each in findings.parts[part].items()
              if "failed" in each]  # fmt: skip
    sys.exit(bool(failed))


class Part(NamedTuple):
    """One thing to find out.

    Attributes:
        part: One of `PARTS`.
        name: What it is called in the file.
        compile: What has to be compiled for it, one function a program.
        look: From the compiled programs to what is found.
    """

    part: str
    name: str
    compile: dict[str, Callable[[], Any]]
    look: Callable[[dict[str, Any]], Any]


class Work:
    """All parts. Those of a group are compiled together, and timed when nothing compiles."""

    def __init__(self, size: Size) -> None:
        self._size = size
        self._pool = concurrent.futures.ThreadPoolExecutor()

    def take(self, todo: list[Part], findings: Findings, deadline: float) -> None:
        left = [each for each in todo if findings.lacks(each.part, each.name)]
        for group in _groups(left):
            if time.monotonic() > deadline:
                return  # before anything is compiled, as what compiles cannot be broken off
            compiling = [
                {name: self._pool.submit(build) for name, build in each.compile.items()}
                for each in group
            ]
            everything = [future for each in compiling for future in each.values()]
            concurrent.futures.wait(everything, max(0, deadline - time.monotonic()))
            if time.monotonic() > deadline:
                return
            for part, futures in zip(group, compiling, strict=True):
                findings.find(part.part, part.name, lambda p=part, f=futures: p.look(_results(f)))
                futures.clear()  # with what has been compiled

    def stop(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def parts(self) -> list[Part]:
        """Everything, in the order in which it is taken."""
        size = self._size
        laws = {
            "mask": lambda _: gpu_laws.mask_is_numpys(size.largest_mask),
            "golden numbers": lambda _: gpu_laws.golden_numbers(size.golden),
            "memory": lambda _: gpu_laws.memory_is_taken_over_and_nothing_compiled_again(),
        }
        parts = [Part("laws", name, {}, look) for name, look in laws.items()]
        parts += [self._filter(network) for network in size.filtered]
        parts += [self._filter(f"2^{power}") for power in size.powers]
        parts += [self._steps(network) for network in size.networks]
        # Last, as CPUs compile for long.
        return parts + [self._law_of_step(network) for network in size.networks]

    def _law_of_step(self, network: str) -> Part:
        def build(platform):
            return gpu_laws.law_step(network, self._size.law_batch_size, platform)

        def look(built):
            start = built["cpu"][1][0]
            # Copies, as a step takes over what it gets.
            here, cpu = (
                step(*jax.tree.map(jnp.copy, arguments))
                for step, arguments in (built[platform] for platform in (backend, "cpu"))
            )
            return gpu_laws.step_is_that_of_a_cpu(here, cpu, start)

        backend = jax.default_backend()
        builds = {each: lambda each=each: build(each) for each in {backend, "cpu"}}
        return Part("laws", f"step of {network}", builds, look)

    def _filter(self, case: str) -> Part:
        def gradients():
            if case.startswith("2^"):
                return [filters.heavy_tailed((1 << int(case[2:]),))]
            return filters.gradients_of(case)

        def look(programs):
            made = gradients()
            programs = programs | _torch_filters()
            runs = {name: lambda run=run: run(made) for name, run in programs.items()}
            filters.check_counts(
                {name: filters.count(run()) for name, run in runs.items() if name != "copy"}
            )
            return side_by_side.time_in_turn(runs, self._size.turns, self._size.most_seconds)

        return Part("filter", case, _filter_builds(gradients), look)

    def _steps(self, network: str) -> Part:
        dtype, batch_size = jnp.bfloat16, self._size.batch_size
        shapes = networks.training_shapes(network, dtype, batch_size)
        contenders = {name: steps.contenders(shapes.loss_fn)[name] for name in CONTENDERS}

        def build(name):
            start, step = contenders[name]
            state = jax.eval_shape(start, shapes.params)
            return steps.CompiledStep(step, state, shapes.inputs)

        def look(programs):
            training = networks.training_arrays(network, dtype, batch_size)
            running = {}
            for name, program in programs.items():
                state = jax.jit(contenders[name][0])(training.params)  # one program, not hundreds
                running[name] = steps.Running(program, state, training.inputs)
            return self._measure_steps(running)

        builds = {name: lambda name=name: build(name) for name in CONTENDERS}
        return Part("steps", network, builds, look)

    def _measure_steps(self, running: dict[str, steps.Running]) -> dict[str, Any]:
        jax.block_until_ready(running["sam"].run())
        started = time.perf_counter()
        jax.block_until_ready(running["sam"].run())
        once = time.perf_counter() - started
        count = max(1, round(self._size.turn_seconds / once))
        turns = {name: lambda each=each: each.run(count) for name, each in running.items()}
        seconds = side_by_side.time_in_turn(turns, self._size.turns, float("inf"))
        return {
            "seconds": {name: [each / count for each in of] for name, of in seconds.items()},
            "steps_a_turn": count,
            "compile_seconds": {
                name: each.compiled.compile_seconds for name, each in running.items()
            },
            "peak_bytes": {
                name: side_by_side.peak_bytes(each.compiled.call) for name, each in running.items()
            },
            "device_memory": jax.devices()[0].memory_stats(),
        }


def _groups(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Parts that follow one another, with as many programs in all as are compiled together."""
    group: list[Part] = []
    for part in parts:
        programs = sum(len(each.compile) for each in (*group, part))
        if group and programs > _TOGETHER:
            yield group
            group = []
        group.append(part)
    yield group


def _results(futures: dict[str, concurrent.futures.Future]) -> dict[str, Any]:
    return {name: future.result() for name, future in futures.items()}


def _filter_builds(gradients: Callable[[], list[jax.Array]]) -> dict[str, Callable[[], Any]]:
    """What compiles each filter that JAX runs."""

    def in_place(leaves, request):
        return thresholds_in_place(leaves, request, folded=False)

    def form(thresholds):
        def keep(leaves):
            stacked = (0,) * len(leaves)
            request = Request(filters.QUANTILE, "layer", by_zscore=True, stacked=stacked)
            return kept(leaves, request, thresholds)

        return jax.jit(keep)

    others = {"jnp.quantile": filters.jnp_quantile, "jax.lax.top_k": filters.lax_top_k}
    made: dict[str, Any] = {
        "in rows": form(thresholds_in_rows),
        "in place": form(in_place),
        "copy": filters.copy,
    }
    made |= {name: filters.by_layer_with(each) for name, each in others.items()}
    return {
        name: lambda filter=each: filter.lower(gradients()).compile() for name, each in made.items()
    }


def _torch_filters() -> dict[str, Callable[..., Any]]:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch  # pyright: ignore[reportMissingImports]
    from with_torch import torch_kthvalue

    # PyTorch without CUDA cannot see what lies on a GPU.
    can_see = jax.default_backend() == "cpu" or torch.cuda.is_available()
    return {"torch.kthvalue": torch_kthvalue} if can_see else {}


def tables(parts: dict[str, dict[str, Any]]) -> str:
    """What has been found, as Markdown."""
    laws = [[name, each.get("failed", "holds")] for name, each in parts["laws"].items()]
    made = [side_by_side.markdown(("law", "found"), laws)]
    for case, each in parts["filter"].items():
        if "found" in each:
            rows = [_filter_row(name, each["found"]) for name in each["found"]]
            made.append(f"{case}\n\n{side_by_side.markdown(FILTER_HEADER, rows)}")
    rows = [
        _step_row(name, each["found"]) for name, each in parts["steps"].items() if "found" in each
    ]
    made.append(side_by_side.markdown(STEP_HEADER, rows))
    return "\n\n".join(made)


def _filter_row(name: str, seconds: dict[str, list[float]]) -> list[str]:
    over_ours = side_by_side.ratio(seconds, name, "in rows")
    return [name, *side_by_side.spread(seconds[name], 1e3, 3), f"{over_ours:.2f}"]


def _step_row(network: str, found: dict[str, Any]) -> list[str]:
    seconds = found["seconds"]
    medians = [f"{1e3 * statistics.median(seconds[name]):.2f}" for name in CONTENDERS]
    ratios = [("zsharp", "sam"), ("sam", "two gradients")]
    return [
        network,
        *medians,
        *(f"{side_by_side.ratio(seconds, *each):.3f}" for each in ratios),
        *(f"{found['peak_bytes'][name] / 1e6:,.0f}" for name in ("sam", "zsharp")),
    ]


if __name__ == "__main__":
    main()
