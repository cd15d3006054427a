"""The ``objective`` section: the loss terms, their weights over the run, and what keeps them balanced."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from distillctl.core.config import defaults
from distillctl.core.config.section import Section, Texts

TERM_NAMES = ("focal", "jsd", "semantic", "contrastive")
"""The loss terms in the order in which they are logged."""

WeightValue = Annotated[float, Field(ge=0, le=1000)]


class WeightSchedule(Section):
    """A weight that moves linearly from ``start`` to ``end`` over the run.

    Written as a number (constant), a list ``[start, end]`` or a mapping ``{start: ..., end: ...}``.
    """

    start: WeightValue = Field(description="Weight at the first optimizer step.")
    end: WeightValue = Field(description="Weight at the last optimizer step.")

    def at(self, progress: float) -> float:
        """The weight at ``progress`` (0 = first step, 1 = last step; clamped to that range)."""
        share = min(max(progress, 0.0), 1.0)
        return self.start + (self.end - self.start) * share

    @property
    def is_zero(self) -> bool:
        """True if the weight is 0 from the first step to the last."""
        return self.start == 0 and self.end == 0


def expand_weight(value: object) -> object:
    """The mapping form of a weight given as a number or a pair; anything else comes back as it is."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"start": value, "end": value}
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return {"start": value[0], "end": value[1]}
    return value


Weight = Annotated[WeightSchedule, BeforeValidator(expand_weight)]


def _weight(value: float | tuple[float, float], what: str) -> Any:
    start, end = value if isinstance(value, tuple) else (value, value)
    description = f"Weight of {what}: a number, or [start, end] for a linear schedule over the run. 0 is off."
    return Field(default=WeightSchedule(start=start, end=end), description=description)


class TermConfig(Section):
    """What every loss term has."""

    weight: Weight
    log_only: bool = Field(
        default=False,
        description="Compute and log the term, without training on it: its weight scales what is logged alone.",
    )

    @property
    def is_active(self) -> bool:
        """True if the term is computed and logged."""
        return self.log_only or not self.weight.is_zero

    @property
    def is_trained(self) -> bool:
        """True if the term's gradient reaches the student."""
        return not self.log_only and not self.weight.is_zero


class FocalConfig(TermConfig):
    """Focal loss on the gold tokens (Lin et al. 2017)."""

    weight: Weight = _weight(defaults.FOCAL_WEIGHT, "the focal term")
    alpha: float = Field(
        default=defaults.FOCAL_ALPHA, gt=0, le=1, description="Constant factor of the focal loss (alpha)."
    )
    gamma: float = Field(
        default=defaults.FOCAL_GAMMA,
        ge=0,
        le=10,
        description="How strongly tokens the student already knows are discounted; 0 is plain cross-entropy.",
    )


class JsdConfig(TermConfig):
    """Jensen-Shannon divergence between the student's and the teacher's distributions."""

    weight: Weight = _weight(defaults.JSD_WEIGHT, "the Jensen-Shannon term")
    temperature: float = Field(
        default=defaults.JSD_TEMPERATURE,
        gt=0,
        le=100,
        description="Softmax temperature of both distributions; the loss is multiplied by its square.",
    )
    gating: bool = Field(
        default=defaults.JSD_GATING,
        description="Weight each token's divergence by the teacher's confidence in the gold token.",
    )
    mixture: float = Field(
        default=defaults.JSD_MIXTURE,
        ge=0.01,
        le=0.99,
        description="The teacher's share of the mean distribution that both are compared with. 0.5 is Jensen-Shannon; "
        "towards 0 it becomes KL(teacher || student), towards 1 KL(student || teacher).",
    )


class SemanticConfig(TermConfig):
    """Cosine distance between the frozen encoder's states of the prediction and of the gold tokens."""

    weight: Weight = _weight(defaults.SEMANTIC_WEIGHT, "the semantic term (after semantic_loss_scale)")


class ContrastiveConfig(TermConfig):
    """InfoNCE over the golds of the same optimizer step."""

    weight: Weight = _weight(defaults.CONTRASTIVE_WEIGHT, "the contrastive term")
    temperature: float = Field(
        default=defaults.CONTRASTIVE_TEMPERATURE,
        gt=0,
        le=10,
        description="Divides the cosine similarities before the softmax over negatives.",
    )
    direction: Literal["both", "triplet"] = Field(
        default="both",
        description="both: negatives seen from the prediction and from the gold; triplet: from the gold only.",
    )


class CriticalTokensConfig(Section):
    """Tokens that decide what an assertion means: assertion names, comparison operators, literals."""

    weight: float = Field(
        default=defaults.CRITICAL_TOKEN_WEIGHT,
        ge=1,
        le=100,
        description="Factor of the focal loss on critical tokens; 1 treats all tokens alike.",
    )
    warmup_epochs: float = Field(
        default=defaults.CRITICAL_WARMUP_EPOCHS,
        ge=0,
        le=1000,
        description="Epochs over which the factor rises linearly from 1; 0 applies it from the first step.",
    )
    extra: Texts = Field(default=(), description="More words to treat as critical, besides the language's own list.")


class ObjectiveConfig(Section):
    """The training objective: the sum over terms of scale x weight(progress) x mean loss."""

    semantic_loss_scale: float = Field(
        default=defaults.SEMANTIC_LOSS_SCALE,
        gt=0,
        le=1000,
        description="Factor (beta) of the semantic loss before its weight; `beta` is accepted as its name.",
    )
    balance: Literal["fixed", "band"] = Field(
        default=defaults.BALANCE,
        description="How the terms' scales are set. fixed: they stay what they are given as. band: the scaled losses "
        "of focal, jsd and semantic are held within 2x of each other, beginning from semantic_loss_scale.",
    )
    max_auxiliary_share: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=defaults.MAX_AUXILIARY_SHARE,
        description="Limit for |gradient of semantic + contrastive| / |gradient of focal + jsd| at the logits, by "
        "running means of the steps before; null is no limit.",
    )
    critical_tokens: CriticalTokensConfig = Field(
        default=CriticalTokensConfig(),
        description="Extra weight on tokens that decide an assertion's meaning.",
    )
    focal: FocalConfig = Field(default=FocalConfig(), description="Focal loss on the gold tokens.")
    jsd: JsdConfig = Field(default=JsdConfig(), description="Divergence from the teacher's distribution.")
    semantic: SemanticConfig = Field(
        default=SemanticConfig(), description="Distance in meaning, token by token, under the frozen encoder."
    )
    contrastive: ContrastiveConfig = Field(
        default=ContrastiveConfig(), description="Prediction close to its own gold, far from other golds."
    )

    @property
    def terms(self) -> dict[str, TermConfig]:
        """Every term's settings by name, in logging order."""
        return {name: getattr(self, name) for name in TERM_NAMES}

    @property
    def active_terms(self) -> tuple[str, ...]:
        """Names of the terms that are computed and logged, in logging order."""
        return tuple(name for name, term in self.terms.items() if term.is_active)

    @property
    def trained_terms(self) -> tuple[str, ...]:
        """Names of the terms whose gradient reaches the student, in logging order."""
        return tuple(name for name, term in self.terms.items() if term.is_trained)

    @model_validator(mode="after")
    def _something_to_train_on(self) -> ObjectiveConfig:
        if not self.trained_terms:
            raise PydanticCustomError(
                "objective",
                "no term is trained: every weight is 0 or log_only. Give one of focal, jsd, semantic, "
                "contrastive "
                "a weight above 0",
            )
        return self
