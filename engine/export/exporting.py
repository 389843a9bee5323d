"""Export of a trained model to a file, and its comparison with PyTorch."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwright.engine.checkpoints.durable import remove, replace, temporary_path
from trainwright.engine.checkpoints.files import get_state_dict, load_checkpoint_file, load_state_dict
from trainwright.engine.config.dump import plain_data
from trainwright.engine.errors import CheckpointError, ConfigError
from trainwright.engine.export.compare import differences, is_too_far
from trainwright.engine.export.form import BATCH_AXIS, ExportedGraph, ExportForm, form_of
from trainwright.engine.export.formats import ExportFormat, Traced, get_format, load_exported
from trainwright.engine.fileio import to_json
from trainwright.engine.inference.inferencer import Inferencer
from trainwright.engine.parts import DATASET, dataloaders, setting
from trainwright.engine.records.logger import print_log
from trainwright.engine.registry import default_scope
from trainwright.engine.run.environment import make_folder, package_version

_BATCH = 4  # inputs that both models are run on together
_OTHER_SIZES = ((0.75, 1.25), (1.5, 1.0))  # of inputs of other sizes, as fractions of the real ones
_NAMES = {BATCH_AXIS: "batch"}


@dataclass(frozen=True)
class ExportReport:
    """What was exported.

    Args:
        file: the file.
        format: name of its format.
        method: the exporter that was used.
        shape: shape of the inputs; None for axes of any size.
        differences: for each output, how far it differs from PyTorch's; see
            :func:`~trainwright.engine.export.compare.differences`.
        compared: shapes of the inputs that were compared.
        source: where these are from.
        size: bytes on disk, with the files beside it.
        is_close: whether the differences are within the tolerance. If not, there is no file.
    """

    file: Path
    format: str
    method: str
    shape: tuple[int | None, ...]
    differences: Mapping[str, float]
    compared: tuple[tuple[int, ...], ...]
    source: str
    size: int
    is_close: bool

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value:.1e}" if value else f"{name} 0" for name, value in self.differences.items())
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.compared)
        return f"differs from PyTorch by at most: {values} ({self.source}, inputs {shapes})"


def export_model(
    cfg: Any,
    checkpoint: str,
    format: str,
    file: str | Path,
    *,
    fixed: Sequence[str] = (),
    tolerance: float = 1e-4,
    input_shape: tuple[tuple[int, ...], torch.dtype] | None = None,
) -> ExportReport:
    """Export a trained model, run both on the same inputs, and write the file if their outputs are equal.

    Everything that can be refused is refused before the export begins. The exporters are tried in turn, each first with
    batches and sizes of any size; what fails is logged.

    Args:
        cfg: config of the model.
        checkpoint: file with the weights.
        format: ``onnx``, ``torch_export``, ``openvino`` or ``executorch``.
        file: file to write, with the suffix of the format. An existing one is replaced.
        fixed: ``batch`` to fix the batch size to 1, ``size`` to fix the size to that of the inputs.
        tolerance: largest difference allowed; see :func:`~trainwright.engine.export.compare.differences`.
        input_shape: shape and dtype of random inputs of one sample, instead of those of the test data.

    Raises:
        ConfigError: the model, its inputs, the format or the path is not suitable, or no exporter can export the model.
        MissingExtraError: a package is missing.
        CheckpointError: the weights do not fit.
    """
    target = Path(file)
    to = get_format(format)
    if target.suffix != to.suffix:
        raise ConfigError("--output", f"a file of {to.name} ends with {to.suffix}, not {target.name!r}")
    if target.is_dir():
        raise ConfigError("--output", f"{str(target)!r} is a folder", "choose another --output")
    to.require()
    make_folder(target.parent, "--output", "choose another --output")
    with torch.no_grad(), default_scope(cfg.get("default_scope")):
        inferencer = _TrainedModel(cfg, checkpoint, "cpu", show_progress=False)
        _check_weights(inferencer.model, checkpoint)
        form = form_of(inferencer.model)
        if reason := form.refused.get(to.name):
            raise ConfigError("--format", f"a {type(form.model).__name__} cannot be exported to {to.name}: {reason}")
        graph = ExportedGraph(form).eval()
        samples, source = _samples(cfg, input_shape)
        _try(graph, samples[0])
        axes = _free_axes(form, to, graph, samples, fixed)
        metadata = _metadata(cfg, inferencer, form, to, samples[0])
        return _export(graph, form, to, target, axes, samples, source, metadata, tolerance)


class _TrainedModel(Inferencer):
    """An inferencer of which only the model and the meta information on its data are used."""

    def _init_pipeline(self, cfg: Any) -> Any:
        return None

    def _init_collate(self, cfg: Any) -> Any:
        return None

    def _init_visualizer(self, cfg: Any) -> Any:
        return None


def _export(
    graph: nn.Module,
    form: ExportForm,
    to: ExportFormat,
    target: Path,
    axes: Mapping[int, str],
    samples: Sequence[Tensor],
    source: str,
    metadata: Mapping[str, Any],
    tolerance: float,
) -> ExportReport:
    """Try the exporters with any size, then with fixed sizes, and write the first file whose outputs are equal."""
    report: ExportReport | None = None
    failure: Exception | None = None
    for free in _fewer_and_fewer(axes):
        for method in to.methods:
            if method in form.needs_size and any(axis in form.size_axes for axis in free):
                print_log(f"{method} exports this model for one size only", "current")
                continue
            described = f"{method} with any {' and '.join(free.values())}" if free else f"{method} with fixed sizes"
            folder = temporary_path(target)
            folder.mkdir()
            try:
                with _quiet(), form.exporting():
                    traced = to.trace(graph, _example(samples[0], free, form.size_axes), free, form.outputs, method)
                if fixed := [name for axis, name in free.items() if traced.shape[axis] is not None]:
                    print_log(f"{described}: the exporter has fixed the {' and '.join(fixed)}", "current")
                    continue
                report = _write(graph, form, to, folder / target.name, traced, method, samples, source, metadata)
                if not is_too_far(report.differences, tolerance):
                    for path in sorted(folder.iterdir(), key=lambda path: path.name == target.name):
                        replace(path, target.with_name(path.name))
                    return ExportReport(**{**vars(report), "file": target, "is_close": True})
                print_log(f"{described}: {report}", "current", logging.WARNING)
            except OSError as error:
                raise ConfigError("--output", f"{str(target)!r} cannot be written: {error}") from error
            except ConfigError:
                raise
            except Exception as error:
                failure = error
                cause = _first_cause(error)
                reason = str(cause).strip().partition("\n")[0][:200]
                print_log(f"{described} failed: {type(cause).__name__}: {reason}", "current", logging.WARNING)
            finally:
                remove(folder)
    if report is not None:
        return ExportReport(**{**vars(report), "file": target})
    model = type(form.model).__name__
    raise ConfigError("--format", f"no exporter can export this {model} to {to.name}; see above") from failure


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _write(
    graph: nn.Module,
    form: ExportForm,
    to: ExportFormat,
    file: Path,
    traced: Traced,
    method: str,
    samples: Sequence[Tensor],
    source: str,
    metadata: Mapping[str, Any],
) -> ExportReport:
    """Write a program, and run it on the same inputs as the module."""
    described = {**metadata, "exporter": method, "inputs": {**metadata["inputs"], "shape": traced.shape}}
    with _quiet():
        to.save(traced.program, to_json(described), file)
        runtime = load_exported(file)
    size = sum(path.stat().st_size for path in file.parent.iterdir())
    worst: dict[str, float] = {}
    compared = []
    for batch in _batches(samples, traced.shape, form.size_axes):
        expected = dict(zip(form.outputs, graph(batch)))
        found = dict(zip(form.outputs, runtime(batch), strict=True))
        for name, value in differences(expected, found, form.instances).items():
            worst[name] = max(worst.get(name, 0.0), value)
        compared.append(tuple(batch.shape))
    return ExportReport(file, to.name, method, traced.shape, worst, tuple(dict.fromkeys(compared)), source, size, False)


def _check_weights(model: nn.Module, checkpoint: str) -> None:
    """Raise a ``CheckpointError`` if the checkpoint lacks weights of the model."""
    fit = load_state_dict(model, get_state_dict(load_checkpoint_file(checkpoint, map_location="cpu")))
    if fit.missing:
        raise CheckpointError(f"{checkpoint} is not a checkpoint of this model:\n{fit}")


def _samples(cfg: Any, input_shape: tuple[tuple[int, ...], torch.dtype] | None) -> tuple[list[Tensor], str]:
    """Return raw inputs of samples, and where they are from."""
    if input_shape is not None:
        shape, dtype = input_shape
        generator = torch.Generator().manual_seed(0)
        values = torch.randint(0, 256, (_BATCH, *shape), generator=generator)
        return list(values.to(dtype) if dtype == torch.uint8 else values.to(dtype) / 255), "random numbers"
    name = next((name for name in ("test_dataloader", "val_dataloader") if cfg.get(name)), None)
    if name is None:
        hint = "use --input-shape 3,224,224:uint8 for random inputs"
        raise ConfigError("test_dataloader", "the config has no data to compare the models on", hint)
    try:
        path, loader = next(dataloaders(cfg, name))
        dataset = DATASET.build(loader["dataset"], path=f"{path}.dataset")
        number = len(dataset)
        found = [dataset[index * number // _BATCH] for index in range(min(_BATCH, number))]
    except Exception as error:
        error.add_note("both models are run on real data; for random inputs, use --input-shape 3,224,224:uint8")
        raise
    inputs = [sample["inputs"] if isinstance(sample, Mapping) else sample[0] for sample in found]
    if not inputs or not all(isinstance(one, Tensor) for one in inputs):
        kinds = ", ".join(sorted({type(one).__name__ for one in inputs})) or "none"
        raise ConfigError(f"{name}.dataset", f"only models whose inputs are tensors can be exported, not {kinds}")
    return [one.as_subclass(Tensor).contiguous() for one in inputs], f"{len(inputs)} samples of {name}"


def _try(graph: nn.Module, sample: Tensor) -> None:
    try:
        graph(sample[None])
    except Exception as error:
        error.add_note(f"the model to export was called with inputs of shape {tuple(sample[None].shape)}")
        raise


def _free_axes(
    form: ExportForm, to: ExportFormat, graph: nn.Module, samples: Sequence[Tensor], fixed: Sequence[str]
) -> dict[int, str]:
    """Return the axes that may have any size, with their names."""
    axes = {}
    if to.any_batch and form.any_batch and not form.instances and "batch" not in fixed:
        axes.update(_NAMES)
    if to.any_size and "size" not in fixed and form.size_axes and _accepts_any_size(form, graph, samples[0]):
        names = ("height", "width") if len(form.size_axes) == 2 else tuple(f"size_{axis}" for axis in form.size_axes)
        axes.update(zip(form.size_axes, names))
    return axes


def _accepts_any_size(form: ExportForm, graph: nn.Module, sample: Tensor) -> bool:
    try:
        for factors in _OTHER_SIZES:
            graph(_resized(sample[None], form.size_axes, factors))
    except Exception:
        return False
    return True


def _fewer_and_fewer(axes: Mapping[int, str]) -> Iterator[dict[int, str]]:
    """Yield the axes, then the batch alone, then none."""
    yield dict(axes)
    batch = {axis: name for axis, name in axes.items() if axis == BATCH_AXIS}
    if batch and batch != axes:
        yield batch
    if axes:
        yield {}


def _resized(inputs: Tensor, axes: Sequence[int], factors: Sequence[float]) -> Tensor:
    """Return inputs whose size along the axes is a multiple of the original one."""
    sizes = {axis: max(1, int(inputs.shape[axis] * factor) | 1) for axis, factor in zip(axes, factors)}
    for axis, size in sizes.items():
        indices = torch.arange(size) * inputs.shape[axis] // size
        inputs = inputs.index_select(axis, indices)
    return inputs.contiguous()


def _example(sample: Tensor, axes: Mapping[int, str], size_axes: Sequence[int]) -> Tensor:
    """Return inputs to trace with.

    A batch size of 1 would be taken for a constant, equal sizes for the same, and a multiple of 8 for always one.
    """
    batch = torch.stack([sample] * (2 if BATCH_AXIS in axes else 1))
    return _resized(batch, size_axes, _OTHER_SIZES[0]) if any(axis in axes for axis in size_axes) else batch


def _batches(samples: Sequence[Tensor], shape: Sequence[int | None], size_axes: Sequence[int]) -> Iterator[Tensor]:
    """Yield inputs to compare: one by one, in a batch, and in other sizes, as the program allows."""
    sizes = tuple(shape[1:])
    fitting = [one for one in samples if all(size in (None, own) for size, own in zip(sizes, one.shape, strict=True))]
    for one in fitting:
        yield one[None]
    same = [one for one in fitting if one.shape == fitting[0].shape]
    if shape[BATCH_AXIS] is None:
        yield torch.stack(same)
        yield torch.stack([*same[:1]] * 3)
    if any(shape[axis] is None for axis in size_axes if axis < len(shape)):
        for factors in _OTHER_SIZES:
            yield _resized(same[0][None], size_axes, factors)


def _metadata(cfg: Any, inferencer: Inferencer, form: ExportForm, to: ExportFormat, sample: Tensor) -> dict[str, Any]:
    """Return what the file says of the model, as plain data; the config in it suffices for an :class:`Inferencer`."""
    meta = dict(inferencer.dataset_meta)
    steps = setting(cfg, "inference_pipeline") or setting(cfg, "test_pipeline")
    kept = {
        name: cfg[name]
        for name in ("inferencer_type", "default_scope", "visualizer", "custom_imports")
        if cfg.get(name) is not None
    }
    _, loader = next(dataloaders(cfg, "test_dataloader" if cfg.get("test_dataloader") else "val_dataloader"))
    loader = loader or {}
    steps = steps or _pipeline_of(loader)
    if steps:
        kept["inference_pipeline"] = steps
    else:
        meta.setdefault("image_shape", tuple(sample.shape))
    if loader.get("collate_fn") is not None:
        kept["test_dataloader"] = {"collate_fn": loader["collate_fn"]}
    traits = ("num_classes", "num_seg_classes", "num_keypoints")
    return {
        "trainwright": package_version("trainwright"),
        "format": to.name,
        "model": type(form.model).__name__,
        "inputs": {"dtype": str(sample.dtype).removeprefix("torch.")},
        "outputs": list(form.outputs),
        "instances": form.instances,
        "decoder": form.decoder,
        **{name: getattr(form.model, name) for name in traits if getattr(form.model, name, None) is not None},
        "dataset_meta": plain_data(meta),
        "config": plain_data(kept),
    }


def _pipeline_of(loader: Mapping[str, Any]) -> Any:
    dataset = loader.get("dataset")
    while isinstance(dataset, Mapping):
        inner = dataset.get("dataset") or dataset.get("datasets")
        if inner is None:
            return dataset.get("pipeline")
        dataset = inner[0] if isinstance(inner, list | tuple) else inner
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of exporters, which are about their own code."""
    names = ("torch.onnx", "onnxscript", "torch.export", "torch._export", "onnx_ir", "torch.fx", "root")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
