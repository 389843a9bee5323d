"""Training a student beside a frozen teacher, with losses between the outputs of their submodules."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainwright.engine.errors import ConfigError, TrainingError, did_you_mean
from trainwright.engine.export.form import ExportForm, form_of_part
from trainwright.engine.registry import MODELS
from trainwright.engine.run.freezing import freeze
from trainwright.models.base import BaseModel
from trainwright.models.module import InitCfg
from trainwright.models.preprocessor import with_preprocessor


class _Pair(NamedTuple):
    """Two submodules whose outputs are compared."""

    name: str
    student: str
    teacher: str
    weight: float


@MODELS.register_module()
class Distillation(BaseModel):
    """A student that learns from its own losses and from a frozen teacher (Hinton, Vinyals & Dean 2015).

    Both see the same preprocessed batch. After that, the outputs of pairs of their submodules are compared, be they
    logits or features. Predictions are the student's. Checkpoints do not contain the teacher, unless
    ``saves_teacher`` is set. Source: https://arxiv.org/abs/1503.02531.

    Example:
        >>> Distillation(
        ...     student=dict(type="ImageClassifier", backbone="resnet18", num_classes=10),
        ...     teacher=dict(type="ImageClassifier", backbone="resnet50", num_classes=10,
        ...                  init_cfg=dict(type="Pretrained", checkpoint="resnet50.pth")),
        ...     pairs=dict(
        ...         logits=dict(student="backbone", loss=dict(type="KDLoss", temperature=4)),
        ...         layer3=dict(
        ...             student="backbone.layer3", loss=dict(type="torch.nn.MSELoss"), weight=10,
        ...             connector=dict(type="torch.nn.Conv2d", in_channels=256, out_channels=1024, kernel_size=1),
        ...         ),
        ...     ),
        ... )

    Args:
        student: the model to train, or its config. Its preprocessor prepares the batches of both.
        teacher: the model to learn from, or its config, which should load weights (``init_cfg``, ``weights``).
        pairs: the comparisons by name, each a dict with ``student``, the name of a submodule of the student;
            ``teacher``, that of the teacher (by default, the same name); ``loss``, a module or config called with
            both outputs; ``weight``, 1 by default; and ``connector``, a module or config that is applied to the
            student's output first, and trained.
        saves_teacher: whether checkpoints contain the teacher.
        data_preprocessor: module or config of the preprocessor, if the student does not define its own.
        init_cfg: one or more initializer configs.

    Raises:
        ConfigError: there are no pairs, one of them has an unknown or missing key or submodule, or there are two
            preprocessors.
    """

    def __init__(
        self,
        student: Mapping[str, Any] | nn.Module,
        teacher: Mapping[str, Any] | nn.Module,
        pairs: Mapping[str, Mapping[str, Any]],
        saves_teacher: bool = False,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: InitCfg = None,
    ) -> None:
        built: Any = MODELS.build(with_preprocessor(student, data_preprocessor, "student"))
        super().__init__(built.data_preprocessor, init_cfg)
        if not pairs:
            raise ConfigError("pairs", "must not be empty", "pairs=dict(logits=dict(student=..., loss=dict(type=...)))")
        built.data_preprocessor = nn.Identity()  # that of this model is used
        self.student: Any = built
        self.teacher: Any = MODELS.build(teacher)
        self.teacher.data_preprocessor = nn.Identity()
        freeze(self, "teacher", saved=saves_teacher)
        self.losses, self.connectors = nn.ModuleDict(), nn.ModuleDict()
        self.pairs = [self._pair(name, pair) for name, pair in pairs.items()]
        self._outputs: dict[tuple[str, str], Any] = {}
        for pair in self.pairs:
            for part, path in (("student", pair.student), ("teacher", pair.teacher)):
                getattr(self, part).get_submodule(path).register_forward_hook(_Keep(self._outputs, part, path))
        for attribute in ("num_classes", "num_seg_classes", "num_keypoints", "any_classes"):
            if hasattr(built, attribute):
                setattr(self, attribute, getattr(built, attribute))

    def _pair(self, name: str, cfg: Mapping[str, Any]) -> _Pair:
        keys = ("student", "teacher", "loss", "weight", "connector")
        for key in cfg:
            if key not in keys:
                raise ConfigError(f"pairs.{name}.{key}", "unknown key", did_you_mean(key, keys) or ", ".join(keys))
        for key in ("student", "loss"):
            if key not in cfg:
                raise ConfigError(f"pairs.{name}.{key}", "missing", f"{key}=...")
        paths = {"student": cfg["student"], "teacher": cfg.get("teacher", cfg["student"])}
        for part, path in paths.items():
            known = [place for place, _ in getattr(self, part).named_modules() if place]
            if path not in known:
                hint = did_you_mean(path, known) or f"its submodules are {', '.join(known[:10])}, …"
                raise ConfigError(f"pairs.{name}.{part}", f"the {part} has no submodule {path!r}", hint)
        self.losses[name] = MODELS.build(cfg["loss"])
        if "connector" in cfg:
            self.connectors[name] = MODELS.build(cfg["connector"])
        return _Pair(name, paths["student"], paths["teacher"], float(cfg.get("weight", 1)))

    def forward(self, inputs: Any, data_samples: Any = None, mode: str = "tensor") -> Any:
        """Return the student's losses with those of the pairs, or its predictions or output.

        Args:
            inputs: input of both models.
            data_samples: ground truth.
            mode: ``loss``, ``predict`` or ``tensor``.
        """
        if mode != "loss":
            return self.student(inputs, data_samples, mode=mode)
        self._outputs.clear()
        losses = dict(self.student(inputs, data_samples, mode="loss"))
        with torch.no_grad():
            self.teacher(inputs, mode="tensor")
        for pair in self.pairs:
            losses[f"loss_{pair.name}"] = self._compare(pair) * pair.weight
        self._outputs.clear()
        return losses

    def export_form(self) -> ExportForm:
        """Return the form of the student, for ``trainwright export``."""
        return form_of_part(self.student, self.data_preprocessor)

    def _compare(self, pair: _Pair) -> Tensor:
        found = []
        for part, path in (("student", pair.student), ("teacher", pair.teacher)):
            if (part, path) not in self._outputs:
                raise TrainingError(f"pairs.{pair.name}: {path!r} of the {part} was not called")
            output = self._outputs[part, path]
            found.append(output if isinstance(output, Tensor) else output[-1])
        student, teacher = found
        if pair.name in self.connectors:
            student = self.connectors[pair.name](student)
        if student.shape != teacher.shape:
            raise ConfigError(
                f"model.pairs.{pair.name}",
                f"the output of the student has the shape {tuple(student.shape)}, that of the teacher "
                f"{tuple(teacher.shape)}",
                "set a connector that converts the student's to the teacher's",
            )
        loss: Tensor = self.losses[pair.name](student, teacher)
        return loss


class _Keep:
    """A forward hook that keeps the output of a submodule."""

    def __init__(self, outputs: dict[tuple[str, str], Any], part: str, path: str) -> None:
        self._outputs = outputs
        self._place = part, path

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._outputs[self._place] = output


@MODELS.register_module()
class KDLoss(nn.Module):
    """The Kullback-Leibler divergence between softened class probabilities (Hinton, Vinyals & Dean 2015).

    It is multiplied by the square of the temperature, so that its gradients have the scale of a cross entropy.

    Args:
        temperature: divisor of the logits; positive.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, not {temperature}")
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss, a scalar, for logits of shape (N, C, ...)."""
        own = (student / self.temperature).log_softmax(1)
        wanted = (teacher / self.temperature).log_softmax(1)
        divergence = F.kl_div(own, wanted, reduction="none", log_target=True).sum(1)
        return divergence.mean() * self.temperature**2
