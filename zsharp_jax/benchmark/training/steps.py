"""The step of a method, and the state that it begins with."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from zsharp_jax import SamInfo, SamState, init_state, sam_step
from zsharp_jax.benchmark.runs.methods import ETA, METHODS, Given, Method
from zsharp_jax.benchmark.runs.settings import Settings
from zsharp_jax.benchmark.training.optimizers import make_optimizer

Step = Callable[..., tuple[SamState, SamInfo]]


@dataclasses.dataclass(frozen=True)
class MethodSteps:
    """Makes the steps of one method, whatever its rho.

    Attributes:
        settings: What to train; seed and rho play no part.
        steps_per_epoch: How many steps an epoch has.
    """

    settings: Settings
    steps_per_epoch: int

    def start(self, params: optax.Params) -> SamState:
        """The state before the first step."""
        given = self._given(0.0, params)
        ascent = self._method.ascent(given) if self._method.ascent else optax.identity()
        one_pass = self._method.step.get("one_pass", False)
        return init_state(params, self._optimizer(given), ascent, one_pass=one_pass)

    def step(
        self,
        loss_fn: Callable[..., Any],
        rho: Any,
        params: optax.Params,
        batch_argnums: Sequence[int] | None = None,
    ) -> Step:
        """The step, of a state and the inputs of `loss_fn`, which returns a loss and aux.

        Args:
            loss_fn: A loss.
            rho: The length of the perturbation, which may be traced.
            params: For their shapes.
            batch_argnums: Which arguments of the loss hold the batch, where not all inputs do.
        """
        given = self._given(rho, params)
        if self._method.ascent is None:
            return plain_step(loss_fn, self._optimizer(given))
        ascent = self._method.ascent(given)
        options = {"has_aux": True, "batch_argnums": batch_argnums, **self._method.step}
        step = sam_step(loss_fn, self._optimizer(given), ascent, **options)
        return _told_of_one_pass(step) if self._method.step.get("one_pass") else step

    @property
    def _method(self) -> Method:
        return METHODS[self.settings.method]

    def _given(self, rho: Any, params: optax.Params) -> Given:
        eta = ETA if self.settings.eta is None else self.settings.eta
        steps = self.settings.planned_steps(self.steps_per_epoch)
        return Given(rho, self.settings.quantile, filtered_tensors(params), eta, steps)

    def _optimizer(self, given: Given) -> optax.GradientTransformation:
        optimizer = make_optimizer(self.settings, self.steps_per_epoch)
        if self._method.links is None:
            return optimizer
        return optax.chain(self._method.links(given), optimizer)


def _told_of_one_pass(step: Step) -> Step:
    """Tells what is known at w + ε alone in place of what would have taken a pass at w."""

    def told(state: SamState, *inputs: Any) -> tuple[SamState, SamInfo]:
        state, info = step(state, *inputs)
        gradient_norm = optax.tree.norm(cast(Any, state.ascent_state).gradients)
        return state, info._replace(loss=info.sharp_loss, gradient_norm=gradient_norm)

    return told


def plain_step(
    loss_fn: Callable[..., Any], optimizer: optax.GradientTransformation
) -> Callable[..., tuple[SamState, SamInfo]]:
    """The bare optimizer's step, told as `sam_step` tells its own: no perturbation, one loss."""

    def step(state: SamState, *inputs: Any) -> tuple[SamState, SamInfo]:
        (loss, aux), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, *inputs)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        info = SamInfo(loss, loss, optax.tree.norm(gradients), jnp.zeros_like(loss), aux)
        return state._replace(params=params, opt_state=opt_state, step=state.step + 1), info

    return step


def filtered_tensors(params: Any) -> int:
    """K: how many tensors have two axes or more."""
    return sum(leaf.ndim > 1 for leaf in jax.tree.leaves(params))
