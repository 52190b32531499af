"""What ZSharp makes an H100 launch, read, exchange and compile: seen on a machine without a GPU.

    pip install -e ".[gpu-programs]"
    python benchmarks/launches.py --out launches.json

Compiles for GPUs that are only described: the filter and every ascent, and whole steps of AdamW,
SAM and ZSharp, on one device and on eight. Prints a Markdown table of the ascents and one of the
steps. What the JSON file holds of the same code is not compiled again, so that a run can be cut off
and taken in parts.
"""

import argparse
import hashlib
import importlib.metadata
import inspect
import json
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import described_gpu
import jax
import networks
import optax
import side_by_side
from described_gpu import Costs
from networks import OPTIMIZER, TRANSFORMER, Training

import zsharp_jax
from zsharp_jax import init_state, sam_step, zscore_filter
from zsharp_jax.benchmark.training.steps import plain_step

RHO = 0.05
QUANTILE = 0.95
NETWORKS = ("resnet20", "resnet56", "resnet110", "vgg16_bn", "vit_7_8_8_384", TRANSFORMER)
LAYOUTS = {"one": 1, "replicated": 8, "fsdp": 8}  # devices
STEPS = ("adamw", "sam", "zsharp", "zsharp_reference")
PARTS = ("ascents", "steps")
CODE = pathlib.Path(zsharp_jax.__file__).parent

ASCENT_HEADER = ("ascent", "layout", "network", "launches", "MB read and written", "all-reduces",
                 "all-gathers", "largest gathered", "MB temporary",
                 "CPU s to compile")  # fmt: skip
STEP_HEADER = ("step", "layout", "network", "launches", "above sam", "all-reduces", "all-gathers",
               "MB temporary", "CPU s to compile")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Counts what programs launch on an H100, without one."
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--layouts", nargs="+", default=tuple(LAYOUTS), choices=LAYOUTS,
                        help="one device, eight that each hold all, eight with FSDP")  # fmt: skip
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--ascents", nargs="+", help="which ascents (default: all)")
    parser.add_argument("--steps", nargs="+", default=STEPS, choices=STEPS)
    parser.add_argument("--batch-size", type=int, default=256, help="images (default: 256)")
    parser.add_argument("--quick", action="store_true",
                        help="compile faster; the time to compile then says nothing")  # fmt: skip
    parser.add_argument("--out", type=pathlib.Path, help="a JSON file of all figures")
    options = parser.parse_args()
    if why_not := described_gpu.why_not():
        sys.exit(why_not)

    known = _read(options.out)
    about = {"batch_size": options.batch_size, "quick": options.quick, "code": fingerprint()}
    results: dict[str, dict[str, dict[str, Any]]] = {"ascents": {}, "steps": {}}
    for part, network, layout, name in _asked(options):
        key = f"{name}, {layout}, {network}"
        found = known.get(part, {}).get(key, {})
        if {each: found.get(each) for each in about} != about:
            measure = ascent_costs if part == "ascents" else step_costs
            training = networks.training_shapes(network, batch_size=options.batch_size)
            costs = measure(training, name, layout, options.quick)
            found = {**costs._asdict(), **about}
            print(f"{key}: {costs.launches} launches", file=sys.stderr, flush=True)
            jax.clear_caches()
        results[part][key] = found
        known.setdefault(part, {})[key] = found
        if options.out:
            side_by_side.write_json(options.out, known)
    print(tables(results))


def _read(path: pathlib.Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    results = json.loads(path.read_text())
    return {part: results[part] for part in PARTS if part in results}


def _asked(options: argparse.Namespace) -> Iterator[tuple[str, str, str, str]]:
    names = {"ascents": options.ascents or tuple(ascents()), "steps": options.steps}
    for part in options.parts:
        for network in options.networks:
            for layout in options.layouts:
                for name in names[part]:
                    yield part, network, layout, name


def fingerprint() -> str:
    """Of what the figures depend on: the library, the networks and what compiles them."""
    seen = hashlib.sha256()
    for package in ("jax", "jaxlib", "optax", "flax"):
        seen.update(importlib.metadata.version(package).encode())
    here = pathlib.Path(__file__).parent
    for path in sorted(CODE.rglob("*.py")) + sorted(here.glob("*.py")):
        seen.update(path.read_bytes())
    return seen.hexdigest()[:12]


def ascents(**options: Any) -> dict[str, optax.GradientTransformation]:
    """The filter, and all public functions that make an ascent of a rho alone, but for
    `scale_to_norm`, which is `sam`.

    Args:
        **options: Arguments for those that filter.
    """
    made: dict[str, Any] = {"zscore_filter": zscore_filter(QUANTILE, **options)}
    for name in sorted(dir(zsharp_jax)):
        function = getattr(zsharp_jax, name)
        if name.startswith("_") or name == "scale_to_norm" or not callable(function):
            continue
        parameters = inspect.signature(function).parameters
        others = list(parameters.values())[1:]
        takes_rho_alone = next(iter(parameters), "") == "rho" and all(
            each.default is not inspect.Parameter.empty for each in others
        )
        if takes_rho_alone:
            made[name] = function(RHO, **{k: v for k, v in options.items() if k in parameters})
    return {k: v for k, v in made.items() if isinstance(v, optax.GradientTransformation)}


def ascent_costs(training: Training, name: str, layout: str, quick: bool = False) -> Costs:
    """What one ascent of a float32 gradient costs, from gradient to perturbation."""
    ascent = ascents(**training.ascent_options)[name]
    mesh = described_gpu.mesh(LAYOUTS[layout])
    params = _placed(training.params, mesh, layout)
    state = _placed(jax.eval_shape(ascent.init, training.params), mesh, layout)

    def ascend(gradients, state, params):
        return ascent.update(gradients, state, params)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, (params, state))
    return described_gpu.costs(ascend, params, state, params, quick=quick, out_shardings=shardings)


def step_costs(training: Training, name: str, layout: str, quick: bool = False) -> Costs:
    """What a whole step costs, with the optimizer's update."""
    start, step = _step(training, name)
    mesh = described_gpu.mesh(LAYOUTS[layout])
    state = _placed(jax.eval_shape(start, training.params), mesh, layout)
    others = len(training.inputs) - training.batch_inputs
    inputs = (
        *_placed(training.inputs[:others], mesh, "replicated"),
        *_placed(training.inputs[others:], mesh, "batch"),
    )
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    return described_gpu.costs(
        step, state, *inputs, quick=quick, donate_argnums=0, out_shardings=(shardings, None)
    )


def _step(training: Training, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A function that makes the first state, and the step."""
    if name == "adamw":
        ascent, step = optax.identity(), plain_step(training.loss_fn, OPTIMIZER)
    else:
        ascent = ascents(**training.ascent_options)[name]
        step = sam_step(training.loss_fn, OPTIMIZER, ascent, has_aux=True)
    return lambda params: init_state(params, OPTIMIZER, ascent), step


def _placed(tree: Any, mesh: jax.sharding.Mesh, layout: str) -> Any:
    """The same shapes, laid out over a mesh."""
    devices = mesh.size

    def spec(shape):
        if layout == "batch":
            return jax.P("data")
        divisible = [axis for axis, side in enumerate(shape) if side % devices == 0]
        if layout != "fsdp" or len(shape) < 2 or not divisible:
            return jax.P()
        longest = max(divisible, key=lambda axis: shape[axis])
        return jax.P(*[None] * longest, "data")

    def place(leaf):
        sharding = jax.NamedSharding(mesh, spec(leaf.shape))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(place, tree)


def tables(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    made = []
    if results["ascents"]:
        rows = [_ascent_row(key, each) for key, each in results["ascents"].items()]
        made.append(side_by_side.markdown(ASCENT_HEADER, rows))
    if results["steps"]:
        rows = [_step_row(key, each, results["steps"]) for key, each in results["steps"].items()]
        made.append(side_by_side.markdown(STEP_HEADER, rows))
    return "\n\n".join(made)


def _ascent_row(key: str, costs: dict[str, Any]) -> list[str]:
    return [
        *key.split(", "),
        f"{costs['launches']:,}",
        f"{costs['bytes_moved'] / 1e6:,.1f}",
        f"{costs['all_reduces']:,}",
        f"{costs['all_gathers']:,}",
        f"{costs['largest_gathered']:,}",
        *_memory_and_time(costs),
    ]


def _step_row(key: str, costs: dict[str, Any], steps: dict[str, dict[str, Any]]) -> list[str]:
    name, layout, network = key.split(", ")
    sam_costs = steps.get(f"sam, {layout}, {network}")
    above = costs["launches"] - sam_costs["launches"] if sam_costs else None
    return [
        name,
        layout,
        network,
        f"{costs['launches']:,}",
        "" if above is None else f"{above:+,}",
        f"{costs['all_reduces']:,}",
        f"{costs['all_gathers']:,}",
        *_memory_and_time(costs),
    ]


def _memory_and_time(costs: dict[str, Any]) -> list[str]:
    seconds = "" if costs["quick"] else f"{costs['compile_seconds']:.1f}"
    return [f"{costs['temporary_bytes'] / 1e6:,.1f}", seconds]


if __name__ == "__main__":
    main()
