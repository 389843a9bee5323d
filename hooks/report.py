"""Write a report with tables, charts and the worst samples after each test."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainwright.engine.data.loader import batch_of, is_sequential
from trainwright.engine.data.several import NamedLoaders
from trainwright.engine.distributed import broadcast_object_list, is_main_process
from trainwright.engine.errors import ConfigError
from trainwright.engine.evaluation.metric import BaseMetric
from trainwright.engine.evaluation.report import Samples, Section
from trainwright.engine.evaluation.samples import samples_of
from trainwright.engine.optim.amp import autocast
from trainwright.engine.registry import HOOKS
from trainwright.engine.run.eval_loops import sets_of
from trainwright.engine.run.hook import Hook
from trainwright.engine.structures.elements import BaseDataElement
from trainwright.engine.visualization.inputs import image_of_batch

if TYPE_CHECKING:
    from trainwright.engine.run.runner import Runner

_DRAWN = ("gt_instances", "pred_instances", "gt_sem_seg", "pred_sem_seg")
_SMALLEST_HEIGHT = 128
_PICTURE_SIZE = (536, 320)  # two columns in a sheet


@HOOKS.register_module()
class ReportHook(Hook):
    """Write a report after each test, with pictures and tables: ``test_report/index.html`` in the folder of the run.

    Its contents depend on the metrics: confusion matrices, results per class, curves, and samples that the model got
    most wrong, which are predicted once more to be drawn. An error in the report is logged and does not affect the
    results.

    Cost per step: none in training. A test records a few more numbers per sample. The report takes up to two seconds
    and the time to predict its samples one by one, however large the test is.

    Args:
        num_samples: maximum number of samples in each picture of samples; 0 for none.
        score_thr: predicted instances with lower scores are not drawn.
        val: also write ``val_report`` after each validation, which replaces that of the last one.

    Raises:
        ConfigError: ``num_samples`` is negative.
    """

    priority = "VERY_LOW"  # the results are already logged

    def __init__(self, num_samples: int = 12, score_thr: float = 0.3, val: bool = False) -> None:
        if num_samples < 0:
            raise ConfigError("ReportHook.num_samples", f"must not be negative, but is {num_samples}")
        self.num_samples = num_samples
        self.score_thr = score_thr
        self.val = val
        self._metrics: list[tuple[str, BaseMetric]] = []  # with the name of one of several datasets

    def before_test(self, runner: "Runner") -> None:
        """Ask the metrics to keep their items."""
        self._start(runner.test_loop)

    def before_val(self, runner: "Runner") -> None:
        """Ask the metrics to keep their items, if a report on validations is wanted."""
        if self.val:
            self._start(runner.val_loop)

    def after_test_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Write the report."""
        self._finish(runner, runner.test_loop, metrics or {}, "test")

    def after_val_epoch(self, runner: "Runner", metrics: dict[str, Any] | None = None) -> None:
        """Write the report on a validation, if it is wanted."""
        if self.val:
            self._finish(runner, runner.val_loop, metrics or {}, "val")

    def after_run(self, runner: "Runner") -> None:
        """Release the items if a test was interrupted."""
        self._release()

    def _start(self, loop: Any) -> None:
        self._metrics = [
            (name, metric)
            for name, _, evaluator in sets_of(loop)
            for metric in evaluator.metrics
            if isinstance(metric, BaseMetric)
        ]
        for _, metric in self._metrics:
            metric.reporting = True

    def _release(self) -> None:
        for _, metric in self._metrics:
            metric.reporting, metric.collected = False, None
        self._metrics = []

    def _finish(self, runner: "Runner", loop: Any, results: Mapping[str, Any], mode: str) -> None:
        sections: list[Section] = []
        try:
            if is_main_process():
                sections = self._sections()
        except Exception:
            self._warn(runner, mode)
        finally:
            self._release()
        wanted = [sorted({index for part in sections if isinstance(part, Samples) for index in part.indices})]
        broadcast_object_list(wanted)  # a model that is split over processes needs all of them to predict
        try:
            pictures = self._pictures(runner, loop, wanted[0])
            if sections:
                self._write(runner, loop, results, mode, sections, pictures)
            elif is_main_process():
                runner.logger.info("No %s report: none of the metrics has more to report than its results", mode)
        except Exception:
            self._warn(runner, mode)

    def _warn(self, runner: "Runner", mode: str) -> None:
        runner.logger.warning("The %s report failed; the results above are not affected:", mode, exc_info=True)

    def _sections(self) -> list[Section]:
        """Return the sections of all metrics; equal ones once, others of the same title with the metric's prefix.

        The titles begin with the name of the dataset, if there are several.
        """
        sections: dict[str, Section] = {}
        for name, metric in self._metrics:
            for section in metric.report(metric.collected, self.num_samples) if metric.collected else ():
                title = section.title
                if name:
                    title = f"{name}: {title}"
                    section = type(section)(**{**vars(section), "title": title})
                if title in sections and repr(sections[title]) != repr(section):
                    title = f"{title} ({metric.prefix})"
                    section = type(section)(**{**vars(section), "title": title})
                sections.setdefault(title, section)
        return list(sections.values())

    def _write(
        self,
        runner: "Runner",
        loop: Any,
        results: Mapping[str, Any],
        mode: str,
        sections: Sequence[Section],
        pictures: Mapping[int, tuple[Any, str]],
    ) -> None:
        from trainwright.engine.visualization.report_page import write_report

        facts = {name: value for name, value in results.items() if isinstance(value, int | float)}
        facts["samples"] = sum(loop.num_samples.values())
        if runner.iter:
            facts |= {"epoch": runner.epoch, "iteration": runner.iter}
        title = f"{runner.experiment_name}: {mode}"
        page = write_report(Path(runner.log_dir, f"{mode}_report"), title, facts, sections, pictures)
        runner.logger.info("Saved the %s report to %s", mode, page)

    def _pictures(self, runner: "Runner", loop: Any, indices: Sequence[int]) -> dict[int, tuple[Any, str]]:
        """Predict samples, and on rank 0 return an image and a name of each by its index."""
        if not indices:
            return {}
        if isinstance(loop.dataloader, NamedLoaders):
            runner.logger.info("The report has no pictures of samples: there are several datasets")
            return {}
        if not is_sequential(loop.dataloader):
            runner.logger.info("The report has no pictures of samples: they require a sampler without shuffling")
            return {}
        runner.model.eval()
        pictures: dict[int, tuple[Any, str]] = {}
        with torch.no_grad(), autocast(device_type=runner.device.type, enabled=loop.fp16):
            for index in indices:
                batch = batch_of(loop.dataloader, [index])
                sample = samples_of(runner.model.test_step(batch))[0]
                if not isinstance(sample, BaseDataElement):
                    runner.logger.info("The report has no pictures of samples: the model does not predict data samples")
                    return {}
                if is_main_process():
                    path = sample.get("img_path") or sample.get("filename") or sample.get("frame_dir")
                    picture = self._picture(batch, sample, loop.evaluator.dataset_meta or {})
                    pictures[index] = picture, Path(path).name if path else f"sample {index}"
        return pictures

    def _picture(self, batch: Any, sample: BaseDataElement, meta: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        from PIL import Image

        from trainwright.engine.visualization.samples import draw_sample

        image = image_of_batch(batch, sample)
        if any(field in sample for field in _DRAWN):
            image = draw_sample(image, sample, meta, score_thr=self.score_thr)
        else:
            factor = -(-_SMALLEST_HEIGHT // image.shape[0])
            image = image.repeat(factor, axis=0).repeat(factor, axis=1)
        picture = Image.fromarray(image)
        picture.thumbnail(_PICTURE_SIZE)
        return np.array(picture)
