"""GORPAdamW: AdamW over LoRA factors and full-rank cores whose steps leave the gradient space alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adam import adam

from gorp._precision import without_autocast
from gorp._ranks import checksum, mean_over_ranks, ranks
from gorp._sketch import check_sketch, sketch, sketch_over_ranks
from gorp.errors import InputError
from gorp.learned_layer import LearnedLayer
from gorp.space import INPUT
from gorp.space_file import SPACE_FILE

FULL_RANK = "full_rank"
LORA = "lora"


class GORPAdamW(Optimizer):
    r"""AdamW on the factors of layers that `gorp.attach` prepared.

    With P = I - S S^T of the layer's space, each factor's update is

    .. math:: \theta \leftarrow (1 - \eta\lambda)\,\theta - \eta\, a\, \mathrm{Adam}(g P) P

    for LoRA's A (r, in), the mirror image on the output side for B (out, r), and plain AdamW for the core Z,
    whose projection V has P in it already. Gradients arrive projected (hooks do it, so that clipping sees what is
    trained); here the direction is projected once more, for Adam's elementwise division tilts it back.
    Every ``refresh_every`` steps cores are merged and their projections renewed, from the gradient before the
    update or at random after it, with the moments kept, and the unprojected gradient rows of the step join each
    factor's sketch. The stride a is 1 unless ``damping`` is set: then it is (||X P|| / ||X||) ** damping, with X
    (n, in) the memory's rows of the task so far.

    A step with a gradient that is not finite changes nothing and is counted in ``skipped_steps``.

    State per parameter: ``step``, ``exp_avg``, ``exp_avg_sq``, ``sketch`` as `gorp._sketch.sketch` has it, all of
    them tensors; with ``damping``, A and Z have ``energy`` (2,), the squared norms of X P and X.

    Args:
        params: what `gorp.param_groups` returns.
        lr: learning rate of LoRA factors.
        full_rank_lr: learning rate of full-rank cores; groups with an ``lr`` of their own keep it.
        betas, eps: as in AdamW.
        weight_decay: decoupled, on A, B and Z alone.

    Raises:
        ValueError: an argument is out of range, or ``params`` is something else, or of no learned layer.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float = 1e-3,
        full_rank_lr: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        for name, value in {"lr": lr, "full_rank_lr": full_rank_lr, "eps": eps, "weight_decay": weight_decay}.items():
            if not value >= 0:
                raise ValueError(f"{name} should be >= 0 but is: {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas should be in [0, 1) but are: {betas}")
        params = list(params)
        if not all(isinstance(group, dict) for group in params):
            raise ValueError("params should be what gorp.param_groups(model) returns, groups by kind of layer")
        groups = [{"lr": full_rank_lr, **group} if group.get("kind") == FULL_RANK else group for group in params]
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.skipped_steps = 0
        for group in self.param_groups:
            for p in group["params"]:
                layer_of(p)

    def _init_group(self, group: dict[str, Any]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
        for p in params:
            if not self.state[p]:
                self.state[p] = self._fresh_state(p)
        return params, [self.state[p] for p in params]

    @staticmethod
    def _fresh_state(p: Tensor) -> dict[str, Tensor]:
        layer, side = layer_of(p)
        layer.space.follow(side, p.device)
        state = {
            "step": torch.zeros((), dtype=torch.float32, device=p.device),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.zeros_like(p),
            "sketch": p.new_zeros(0, layer.width_of(side)),
        }
        return state | {"energy": p.new_zeros(2)} if layer.config.damping and side == INPUT else state

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every factor that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._update()
        return loss

    @without_autocast
    def _update(self) -> None:
        if not gradients_are_finite(p for group in self.param_groups for p in group["params"]):
            self.skipped_steps += 1
            self._forget_pending()
            return
        self._average_gradient_rows()
        for group in self.param_groups:
            params, states = self._init_group(group)
            if not params:
                continue
            owners = [layer_of(p) for p in params]
            for (layer, side), state in zip(owners, states, strict=True):
                layer.begin_step()
                layer.leave_out_infinite(side)
                if "energy" in state:
                    layer.set_stride(state["energy"])
            directions = _adam_directions(params, states, group["betas"], group["eps"])
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - float(group["lr"]) * group["weight_decay"])
            steps = [
                layer.project_step(side, direction) for (layer, side), direction in zip(owners, directions, strict=True)
            ]
            if any("energy" in state for state in states):  # of a damped layer
                steps = [step * layer.stride for (layer, _), step in zip(owners, steps, strict=True)]
            torch._foreach_add_(params, steps, alpha=-float(group["lr"]))
            for (layer, side), state in zip(owners, states, strict=True):
                self._remember(layer, side, state)
        self._forget_pending()

    def _average_gradient_rows(self) -> None:
        """Of gradients the memory is to see those of all ranks' rows, as the factors' own are averaged; once a step."""
        if ranks() == 1:
            return
        owners = [layer_of(p) for group in self.param_groups for p in group["params"]]
        seen = [(layer, side) for layer, side in owners if side in layer.seen and layer.remembers_gradients(side)]
        means = mean_over_ranks([layer.seen[side] for layer, side in seen])
        for (layer, side), rows in zip(seen, means, strict=True):
            layer.seen[side] = rows

    @staticmethod
    def _remember(layer: LearnedLayer, side: str, state: dict[str, Tensor]) -> None:
        """After the step: what the gradient showed joins the sketch, and the layer learns which step is next."""
        if side in layer.seen:
            state["sketch"] = sketch(state["sketch"], layer.seen[side])
        if side == INPUT:
            layer.refresh_at(layer.step + 1)

    def _forget_pending(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                layer_of(p)[0].forget_pending()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, and with them what backward passes left for a step that was not made."""
        super().zero_grad(set_to_none)
        self._forget_pending()

    @torch.no_grad()
    def average_memories(self) -> None:
        """Make the state the same on all ranks: sketches of inputs, which each keeps of its own rows, are averaged.

        For what saves the state of one rank. All of them must call it; a single process has nothing to do.
        """
        for p, state in self.state.items():
            layer, side = layer_of(p)
            if state and not layer.remembers_gradients(side):
                state["sketch"] = sketch_over_ranks(state["sketch"])

    def state_dict(self) -> dict[str, Any]:
        """As torch's, with a checksum of each factor's space under ``spaces``: only under those is it of use."""
        return super().state_dict() | {"spaces": self._space_checksums()}

    def _space_checksums(self) -> list[int]:
        owners = [layer_of(p) for group in self.param_groups for p in group["params"]]
        sides = [layer.space.side(name) for layer, name in owners]
        return [0 if side is None else int(checksum(side.basis)) for side in sides]

    @without_autocast
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore moments, sketches, step counts and the phase of the refresh; load the model's state first.

        Raises:
            InputError: the model is attached with another gradient space than when the state was saved, or a sketch is
                of an earlier version, or the state another optimizer's.
        """
        if state_dict.get("spaces", self._space_checksums()) != self._space_checksums():
            raise InputError(
                "the optimizer's state was saved while the model had another gradient space, and earlier tasks would "
                "not be protected; accepted: a model attached with the space of that moment, gorp.attach(model, "
                f"config, gorp.GradientSpace.load(PATH)); GORPCallback keeps it in every checkpoint as {SPACE_FILE}"
            )
        for state in state_dict["state"].values():
            if "sketch" not in state:
                raise InputError("the state is of another optimizer; accepted: one that a GORPAdamW saved")
            check_sketch(state["sketch"])
        super().load_state_dict(state_dict)
        for p in (p for group in self.param_groups for p in group["params"]):
            layer, side = layer_of(p)
            if state := self.state.get(p, {}):
                state["step"] = state["step"].to(p.device)  # which Adam's fused kernel wants
            if side == INPUT:
                layer.resume_at(int(state["step"]) if state else 0)

    def restart(self) -> None:
        """A new task: moments, sketches and step counts begin anew, for the same parameters."""
        self.state.clear()
        self.zero_grad()


def gradients_are_finite(params: Iterable[Tensor]) -> bool:
    """Whether no gradient holds NaN or infinity; true where there is none."""
    gradients = [p.grad for p in params if p.grad is not None]
    return not gradients or bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all())


def layer_of(p: Tensor) -> tuple[LearnedLayer, str]:
    """The layer a factor belongs to, and the side of its space that the factor reads."""
    try:
        owner: tuple[LearnedLayer, str] = p.gorp_owner  # type: ignore[attr-defined]
    except AttributeError:
        raise ValueError(
            f"a parameter of shape {tuple(p.shape)} belongs to no learned layer of this model; "
            "pass gorp.param_groups(model) after gorp.attach(model, config), and copy a model before attaching"
        ) from None
    return owner


def _adam_directions(
    params: list[Tensor], states: list[dict[str, Tensor]], betas: tuple[float, float], eps: float
) -> list[Tensor]:
    """Adam's bias-corrected directions m / (sqrt(v) + eps) by torch's fused kernel; moments and step counts move on."""
    directions = [torch.zeros_like(p) for p in params]
    gradients = [p.grad for p in params if p.grad is not None]
    averages, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
    adam(
        directions, gradients, averages, squares, [], steps, fused=True, foreach=False, amsgrad=False, maximize=False,
        beta1=betas[0], beta2=betas[1], lr=-1.0, weight_decay=0.0, eps=eps,
    )  # fmt: skip
    return directions
