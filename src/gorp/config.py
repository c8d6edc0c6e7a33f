"""Settings of GORP itself: what learns, at which rank, and how the past is protected."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Variant = Literal["exact", "paper"]
Projection = Literal["gradient", "random"]
RefreshFrom = Literal["cheapest", "activations", "weight_gradient"]
RefreshPasses = Literal["all", "last"]
Memory = Literal["sketch", "first_moment", "features", "weighted_features"]

_DEFAULTS: dict[str, dict[str, object]] = {
    "exact": {
        "lora_dropout": 0.0,
        "null_space_start": True,
        "project_step": True,
        "guard": True,
        "memory": "sketch",
        "max_share": 0.75,
    },
    "paper": {
        "lora_dropout": 0.1,
        "null_space_start": False,
        "project_step": False,
        "guard": False,
        "memory": "first_moment",
        "max_share": 1.0,
    },
}


class GORPConfig(BaseModel):
    """What learns and how the past is protected.

    A target is a run of dotted name components that a layer's name must contain: ``SelfAttention.q`` matches
    ``encoder.block.0.layer.0.SelfAttention.q``; ``*`` stands for part of a component. Targets left at None are none
    for `gorp.attach` and the architecture's defaults for the learner; other settings left at None take the
    default of the variant, the memory beside random projections that of the latter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    variant: Variant = Field(
        "exact", description="exact: as docs/method.md derives it; paper: the published formulas, literally"
    )
    lora_targets: tuple[str, ...] | None = Field(None, description="layers that learn by LoRA factors")
    full_rank_targets: tuple[str, ...] | None = Field(
        None, description="layers that learn by projected full-rank steps"
    )
    rank: int = Field(8, ge=1, description="rank of LoRA factors and of full-rank projections")
    lora_alpha: int = Field(32, gt=0, description="LoRA scale times rank: W + (alpha / rank) B A")
    lora_dropout: float | None = Field(None, ge=0, lt=1)
    projection: Projection = Field(
        "gradient",
        description="full-rank layers learn U Z V^T, U and V from the gradient, or Z V^T with V drawn at random",
    )
    refresh_every: int = Field(10, ge=1, description="T, optimizer steps between new full-rank projections")
    stagger_refresh: bool = Field(
        False, description="layers take turns at refreshing, a T-th of them at every step, instead of all at every T-th"
    )
    refresh_from: RefreshFrom = Field(
        "cheapest",
        description="new directions come of a layer's inputs and output gradients, or of its weight's gradient, formed",
    )
    refresh_passes: RefreshPasses = Field(
        "all",
        description="passes of an accumulated step that new directions come of; last: of one, for which less is held",
    )
    energy: float = Field(
        0.95, ge=0, le=1, description="eps, share of the energy of a task's memory that the space must hold; 0: none"
    )
    max_share: float | None = Field(None, gt=0, le=1, description="cap of a space, as a share of its width")
    protect_outputs: bool = Field(True, description="keep an output-side space for LoRA's B too")
    share_inputs: bool = Field(
        False, description="layers that read the same input, such as q, k and v, keep one space of it between them"
    )
    memory: Memory | None = Field(
        None,
        description="what a task's space is grown from: gradients, Adam's moment, inputs, or weighted inputs",
    )
    null_space_start: bool | None = Field(None, description="draw LoRA's A in the complement of the space")
    project_step: bool | None = Field(None, description="project what Adam makes of the gradient, too")
    guard: bool | None = Field(None, description="treat a free gradient at round-off level as zero")
    damping: float = Field(
        0.0, ge=0, description="steps shrink by the norm share of the memory's rows that is free, to this power"
    )
    accumulation_steps: int = Field(1, ge=1, description="backward passes per optimizer step")
    seed: int = Field(0, ge=0)

    @property
    def remembers_inputs(self) -> bool:
        """Whether the memory is one of inputs, not of gradients or moments."""
        return self.memory in ("features", "weighted_features")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_variant(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        variant = str(values.get("variant", "exact"))
        defaults = _DEFAULTS.get(variant, {})
        if variant == "exact" and values.get("projection") == "random":
            defaults = {**defaults, "memory": "weighted_features"}
        return {**values, **{key: value for key, value in defaults.items() if values.get(key) is None}}

    @model_validator(mode="after")
    def _paper_keeps_moments(self) -> GORPConfig:
        if self.variant == "paper" and self.memory != "first_moment":
            raise ValueError(f"memory {self.memory!r} belongs to variant 'exact'; 'paper' accepts 'first_moment'")
        return self

    @model_validator(mode="after")
    def _paper_keeps_its_own(self) -> GORPConfig:
        if self.variant == "paper" and self.share_inputs:
            raise ValueError(
                "share_inputs belongs to variant 'exact', whose spaces are of inputs; 'paper' accepts false"
            )
        return self

    @model_validator(mode="after")
    def _random_needs_inputs(self) -> GORPConfig:
        if self.projection == "gradient":
            return self
        if self.variant == "paper":
            raise ValueError("projection 'random' belongs to variant 'exact'; 'paper' accepts 'gradient'")
        if self.full_rank_targets != () and not self.remembers_inputs:
            raise ValueError(
                f"projection 'random' forms no gradient for memory {self.memory!r}; "
                "it accepts 'features' and 'weighted_features'"
            )
        return self

    @model_validator(mode="after")
    def _damping_needs_rows(self) -> GORPConfig:
        if self.damping and self.memory == "first_moment":
            raise ValueError("damping needs a memory that sees rows; with 'first_moment' it accepts 0 alone")
        return self
