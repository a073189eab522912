"""The training losses, without torch: what settings, tables and docs say of them.

A loss is a function in `arnas.training.losses`, or one of the user's own that is named
``package.module:function``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializeAsAny,
    ValidationError,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from arnas.runtime.errors import UserError
from arnas.runtime.options import Options
from arnas.runtime.references import is_reference
from arnas.runtime.registered import REFERENCE_PATTERN, Registered


class LossOptions(Options):
    """A training loss with its settings; base of all and enough for those without any."""

    name: str

    @model_serializer
    def _short(self, info: SerializationInfo) -> Any:
        """Return the name alone where nothing else is set."""
        fields = {key: field.default for key, field in type(self).model_fields.items()}
        values = {key: getattr(self, key) for key in [*fields, *(self.model_extra or {})]}
        if info.exclude_defaults:
            values = {k: v for k, v in values.items() if k == "name" or v != fields.get(k, ...)}
        return self.name if len(values) == 1 else values


class SmoothedOptions(LossOptions):
    """Settings of the losses `pgd` and `natural`."""

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of the label that is spread over all classes (arXiv 1512.00567, section 7; for
    adversarial training arXiv 2010.00467)."""


class TradesOptions(LossOptions):
    """Settings of the loss `trades`."""

    beta: float = Field(default=6.0, ge=0)
    """Weight of the divergence."""


class MartOptions(LossOptions):
    """Settings of the loss `mart`."""

    weight: float = Field(default=5.0, ge=0)
    """Weight of the divergence, lambda in the paper."""


class IatOptions(LossOptions):
    """Settings of the loss `iat`."""

    alpha: float = Field(default=1.0, ge=0)
    """Images are mixed in shares from Beta(alpha, alpha); 0 mixes none."""


class InfoatOptions(LossOptions):
    """Settings of the loss `infoat`."""

    weight: Literal["local_mi", "mart", "one"] = "local_mi"
    """What an image's divergence is weighed by: the local mutual information of image and outputs,
    the doubt of MART, or nothing."""
    of: Literal["softmax", "latent"] = "softmax"
    """Outputs that the information is about: the probabilities, or the inputs of the last linear
    layer."""
    strength: float = Field(default=5.0, ge=0)
    """Weight of the divergence."""
    projections: int = Field(default=0, ge=0)
    """Random directions of the outputs, a backward pass each; 0 takes all outputs."""


class JsigrOptions(LossOptions):
    """Settings of the loss `jsigr`."""

    jacobian: float = Field(default=0.01, ge=0)
    """Weight of the Jacobian's squared norm."""
    selective: float = Field(default=0.5, ge=0)
    """Weight of the input gradient outside the patches that matter."""
    grid: int = Field(default=4, ge=2, le=32)
    """Patches on a side of the image; each takes a forward pass."""


class CostSensitiveOptions(LossOptions):
    """Settings of the loss `cost_sensitive`."""

    protected: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    """Classes whose confusions cost more."""
    cost: float = Field(default=10.0, ge=0)
    """Cost of a confusion from or to a protected class; of others 1."""
    costs: list[list[Annotated[float, Field(ge=0)]]] | None = None
    """Cost of each prediction (row) for each true class (column), in place of the two above."""
    weight: float = Field(default=1.0, ge=0)
    """Weight of the expected cost; 0 is PGD training."""

    @model_validator(mode="after")
    def _one_or_the_other(self) -> CostSensitiveOptions:
        """Refuse costs that are given twice."""
        if self.costs is not None and self.protected:
            raise ValueError("give either protected, a list of classes, or costs, a matrix")
        return self


class OwnLossOptions(LossOptions):
    """Settings of a user's own loss: any, which it finds in ``step.settings``."""

    model_config = ConfigDict(extra="allow")


@dataclass(frozen=True)
class LossEntry:
    """What is known of a loss."""

    function: str
    """Reference to a function from `arnas.training.losses.Step` to `LossValue`."""
    label: str
    """Its name in docs and figures."""
    citation: str
    passes: int
    """Forward passes of a training step, those of its attack apart."""
    settings: type[LossOptions] = LossOptions
    defended: bool = True
    """Whether it trains for robustness."""
    selects: Literal["robust", "clean"] = "robust"
    """Accuracy on the validation images that picks the checkpoint."""


LOSSES: dict[str, LossEntry] = {
    "pgd": LossEntry(
        "arnas.training.losses:pgd_loss",
        "PGD training",
        "Madry et al., ICLR 2018, arXiv 1706.06083",
        1,
        SmoothedOptions,
    ),
    "trades": LossEntry(
        "arnas.training.losses:trades_loss",
        "TRADES",
        "Zhang et al., ICML 2019, arXiv 1901.08573",
        3,
        TradesOptions,
    ),
    "mart": LossEntry(
        "arnas.training.losses:mart_loss",
        "MART",
        "Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified "
        "Examples, ICLR 2020",
        2,
        MartOptions,
    ),
    "iat": LossEntry(
        "arnas.training.interpolated:iat_loss",
        "IAT",
        "Lamb et al., AISec 2019, arXiv 1906.06784",
        2,
        IatOptions,
    ),
    "infoat": LossEntry(
        "arnas.training.infoat:infoat_loss",
        "InfoAT",
        "after Xu et al., IEEE TNNLS 2022, arXiv 2206.12292; concept reproduced",
        3,
        InfoatOptions,
    ),
    "cost_sensitive": LossEntry(
        "arnas.training.cost_sensitive:cost_sensitive_loss",
        "cost-sensitive training",
        "Shen et al., arXiv 2101.12372",
        1,
        CostSensitiveOptions,
    ),
    "jsigr": LossEntry(
        "arnas.training.jsigr:jsigr_loss",
        "J-SIGR",
        "after Liu et al., Pattern Recognition 2024, arXiv 2207.13036; concept reproduced",
        18,
        JsigrOptions,
    ),
    "natural": LossEntry(
        "arnas.training.losses:natural_loss",
        "natural training",
        "empirical risk minimisation",
        1,
        SmoothedOptions,
        defended=False,
        selects="clean",
    ),
}
"""Name to loss."""


def loss_entry(name: str) -> LossEntry:
    """Return the entry of a loss; a user's own counts as adversarial training.

    Raises
    ------
    UserError
        When there is no such loss.
    """
    if is_reference(name):
        return LossEntry(name, name.partition(":")[2], "your own", 1, OwnLossOptions)
    if name not in LOSSES:
        raise UserError(f"the loss is '{name}': allowed are {', '.join(LOSSES)}.")
    return LOSSES[name]


def loss_options(value: Any) -> LossOptions:
    """Return the settings of a loss from its name, or from a block with its name and settings."""
    if isinstance(value, LossOptions):
        return value
    block = {"name": value} if isinstance(value, str) else value
    if not isinstance(block, dict) or "name" not in block:
        raise PydanticCustomError("loss", "write a name, or a block with a name and its settings")
    if not isinstance(block["name"], str):
        wrong = {"key": "name", "problem": "input should be the name of a loss"}
        raise PydanticCustomError("loss", "{key}: {problem}", wrong)
    Registered(LOSSES).check(block["name"])
    settings = loss_entry(block["name"]).settings
    try:
        return settings.model_validate(block)
    except ValidationError as error:
        problem = error.errors()[0]
        if not problem["loc"]:
            raise problem["ctx"]["error"] from None
        allowed = ", ".join(key for key in settings.model_fields if key != "name") or "none"
        raise PydanticCustomError(
            "loss",
            "{key}: {problem}; settings of this loss are {allowed}",
            {
                "key": ".".join(map(str, problem["loc"])),
                "problem": problem["msg"].lower(),
                "allowed": allowed,
            },
        ) from None


def _json_schema() -> dict[str, Any]:
    """Return the schema of a name, or of a block for each loss with settings."""
    blocks = []
    for name, entry in LOSSES.items():
        block = entry.settings.model_json_schema(mode="validation")
        if len(block["properties"]) > 1:
            named = {"name": {"const": name, "type": "string"}}
            blocks.append(block | {"properties": block["properties"] | named})
    own = {"name": {"type": "string", "pattern": REFERENCE_PATTERN}}
    blocks.append({"type": "object", "properties": own, "required": ["name"]})
    return {"anyOf": [*Registered(LOSSES).json_schema()["anyOf"], *blocks]}


Loss = Annotated[
    SerializeAsAny[LossOptions], BeforeValidator(loss_options), WithJsonSchema(_json_schema())
]
"""Type of a setting: ``pgd``, or ``{name: trades, beta: 3}``, or ``{name: "my:loss", ...}``."""
