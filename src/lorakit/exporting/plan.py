"""The plan of an export, and what a target must be able to do with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from lorakit.adapter import Adapter
from lorakit.base.folder import Base
from lorakit.engines.onnx.calibration import Calibration
from lorakit.exporting.cases import Cases, token_faults
from lorakit.exporting.companions import Companions
from lorakit.exporting.running import Exported

Kind = Literal["merged", "apart", "dynamic", "composed"]
TargetName = Literal["onnx", "gguf", "safetensors", "mlx"]
TOKENIZER = "tokenizer"  # what `ExportPlan.kept` holds while a plan is checked
OnBytes = Callable[[int], None]  # written so far; what it raises ends the export


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """An adapter of an export. source: its reference, safe to show. facts: what the lorakit.json
    of its folder says, and templates those that it was trained with; empty where it has none.
    license: what its card calls it."""

    name: str
    source: str
    scale: float
    adapter: Adapter
    facts: Mapping[str, Any]
    templates: Mapping[str, str]
    license: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportPlan:
    """What is exported, and where to.

    context: tokens that the export can hold. split_size: bytes of a part of a GGUF model; None
    keeps it whole. proven: whether it is to be compared with what it was made of. kept: what a
    target wants to make but once.
    """

    base: Base
    base_name: str
    adapters: tuple[Chosen, ...]
    target: Target
    kind: Kind
    forms: tuple[str, ...]
    context: int
    output: Path
    overwrite: bool
    companions: Companions
    calibration: Calibration
    split_size: int | None
    proven: bool
    kept: dict[str, Any] = field(default_factory=dict)

    @property
    def scaled(self) -> list[tuple[Adapter, float]]:
        return [(chosen.adapter, chosen.scale) for chosen in self.adapters]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(chosen.name for chosen in self.adapters)


class Target(ABC):
    """A runtime's files.

    title, library: as the card says them. kinds: what may become of adapters. limits: nats of KL
    from float32 that each form may cost at most. spelled: other names of forms. few_bits: forms in
    which merging an adapter may lose it. default: the form where none is said. several: whether
    forms lie beside each other in a folder. seamless: whether adapters that are kept apart are used
    without being named.
    """

    name: TargetName
    title: str
    library: str
    kinds: tuple[Kind, ...] = ("merged",)
    limits: Mapping[str, float]
    spelled: Mapping[str, str] = MappingProxyType({})
    few_bits: Container[str] = ()
    default: str
    several = False
    seamless = False

    def form(self, name: str) -> str | None:
        """What it calls a form, or None for what is no form of it."""
        found = self.spelled.get(name, name)
        return found if found in self.limits else None

    def require(self, base: Base) -> None:  # noqa: B027
        """Raise CapabilityError for a base that it cannot be of."""

    def read(self, base: Base) -> dict[str, Any]:
        """What to put into `ExportPlan.kept` before a tokenizer takes its memory."""
        return {}

    @abstractmethod
    def check(self, plan: ExportPlan) -> None:
        """Raise what `write` would, where it is known without the long work."""

    @abstractmethod
    def expected_bytes(self, plan: ExportPlan, form: str) -> int:
        """About what a form takes."""

    @abstractmethod
    def place(self, plan: ExportPlan, form: str) -> str:
        """The path in the folder of a form's first file."""

    def begin(self, plan: ExportPlan, folder: Path, about: Mapping[str, Any]) -> None:  # noqa: B027
        """Write what stands beside the weights of all forms, and does not come with them."""

    @abstractmethod
    def write(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path, on_bytes: OnBytes | None
    ) -> tuple[Path, ...]:
        """Write a form; the first path is what a runtime opens."""

    def beside(self, plan: ExportPlan) -> str | None:
        """The path in the folder of the adapter that is kept apart in a file of its own."""
        return None

    def can_be_apart(self, plan: ExportPlan) -> bool:
        """Whether adapters can be kept beside the weights."""
        return False

    @abstractmethod
    def opened(
        self, plan: ExportPlan, kind: Kind, form: str, folder: Path
    ) -> AbstractContextManager[Exported]:
        """A form that was written, in its runtime or what stands for it."""

    @abstractmethod
    def runtime(self, plan: ExportPlan, form: str) -> str:
        """What `opened` opens it in, in words."""

    def faults(
        self, plan: ExportPlan, folder: Path, form: str, cases: Cases, *, declare: bool
    ) -> tuple[str, ...]:
        """Where the export's own tokenizer or template gives other tokens than the base's."""
        return token_faults(folder, cases, declare=declare)

    def warnings(self, plan: ExportPlan, form: str) -> Sequence[str]:
        """What `opened` cannot show, and what its runtime does otherwise by its nature."""
        return ()

    @abstractmethod
    def use(self, name: str, record: Mapping[str, Any], first: str) -> Iterator[str]:
        """Lines of the card: how it is used. first: the path of its first file."""
