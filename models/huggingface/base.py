"""What the models of Hugging Face have in common."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from trainwright.engine.data.names import names_of
from trainwright.engine.errors import ConfigError
from trainwright.engine.export.form import ExportForm
from trainwright.models.huggingface.networks import (
    ConfigLike,
    build_image_processor,
    build_network,
    check_model_config,
    check_processor_options,
    class_names_config,
)
from trainwright.models.huggingface.preprocessor import HuggingFacePreprocessor


class HuggingFaceModel:
    """Base of the models around a network of transformers; a mixin for a :class:`BaseModel`.

    Attributes:
        task: one of the tasks in :data:`~trainwright.models.huggingface.networks.TASKS`.
        network_name: attribute that holds the network.
        names_key: key in ``metainfo`` of the names of the outputs.
    """

    task: ClassVar[str]
    network_name: ClassVar[str] = "network"
    names_key: ClassVar[str] = "classes"

    _image_processor: Any = None
    _dataset_meta: Mapping[str, Any] | None = None

    @classmethod
    def check_config(cls, cfg: Mapping[str, Any]) -> Iterator[ConfigError]:
        """Yield the mistakes in a config of this model, with paths inside it, as far as transformers is installed."""
        pretrained, config = cfg.get("pretrained"), cfg.get("config")
        found = list(check_model_config(cls.task, pretrained, config))
        yield from found
        if not found:
            yield from check_processor_options(cfg.get("image_processor"), config)

    def _build_parts(
        self,
        pretrained: str | None,
        config: ConfigLike | None,
        num_labels: int | None,
        image_processor: Mapping[str, Any] | None,
        argument: str = "num_classes",
    ) -> Any:
        """Return the network, and set the image processor and the classes that the weights were trained for."""
        if argument and num_labels is None and pretrained is None and not _names_labels(config):
            hint = f"set it to the number of {self.names_key} of the data"
            raise ConfigError(argument, f"is required for a model for {self.task} without weights", hint)
        network, classes = build_network(self.task, pretrained, config, num_labels)
        self._image_processor = build_image_processor(network, pretrained, image_processor)
        self._dataset_meta = {self.names_key: classes} if classes else None
        return network

    @property
    def image_processor(self) -> Any:
        """The image processor of transformers."""
        return self._image_processor

    @property
    def dataset_meta(self) -> Mapping[str, Any] | None:
        """The ``metainfo`` of the data that the weights were trained on; None if it is unknown."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, metainfo: Mapping[str, Any] | None) -> None:
        self._dataset_meta = metainfo
        names, config = names_of(metainfo, self.names_key), self.hf_network.config
        if self.names_key == "seg_classes":
            names = names or names_of(metainfo, "classes")
        if names and len(names) == config.num_labels:
            config.update(class_names_config(names))

    @property
    def hf_network(self) -> Any:
        """The network of transformers."""
        return getattr(self, self.network_name)

    def export_form(self) -> ExportForm:
        """Return the form for ``trainwright export``: of one image of one size, if an image processor prepares it.

        The image processors compute with sizes, and sort images by them, in Python, so an exporter takes them for
        constants.
        """
        form: ExportForm = super().export_form()  # type: ignore[misc]
        preprocessor = form.model.data_preprocessor
        if not isinstance(preprocessor, HuggingFacePreprocessor):
            return form

        def predict(images: Tensor) -> Any:
            return form.function(preprocessor.process(images, portable=True)[0])

        return replace(form, function=predict, takes_raw=True, any_batch=False, size_axes=())

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that transformers can load: config.json, the weights, and preprocessor_config.json.

        Args:
            folder: the folder; created if it does not exist.
        """
        self.hf_network.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


def preprocessor_config(given: Any, image_processor: Any, **defaults: Any) -> Any:
    """Return the config of the data preprocessor: the given one, or by default the image processor's.

    Raises:
        ConfigError: the given one is for detectors of torchvision.
    """
    if isinstance(given, nn.Module):
        return given
    given = {"type": "HuggingFacePreprocessor", **(given or {})}
    if given["type"] == "HuggingFacePreprocessor":
        return {"image_processor": image_processor, **defaults, **given}
    return given


def require_own_preprocessor(given: Any) -> None:
    """Check that a data preprocessor is the one of Hugging Face models, for those that need its masks and sizes.

    Raises:
        ConfigError: it is another one.
    """
    name = type(given).__name__ if isinstance(given, nn.Module) else (given or {}).get("type")
    if name not in (None, "HuggingFacePreprocessor"):
        hint = "set data_preprocessor=None, and change the image processor by image_processor=dict(...) in the model"
        raise ConfigError("data_preprocessor", f"{name} cannot take the place of the model's image processor", hint)


def normalization(image_processor: Any) -> dict[str, Any]:
    """Return the mean and standard deviation of an image processor, for pixels from 0 to 255; none if it has none."""
    factor = image_processor.rescale_factor if image_processor.do_rescale else 1.0
    if not image_processor.do_normalize:
        return {"mean": [0.0], "std": [1 / factor]}
    return {
        "mean": [value / factor for value in image_processor.image_mean],
        "std": [value / factor for value in image_processor.image_std],
    }


def original_size(sample: Any, inputs: Tensor) -> tuple[int, int]:
    """Return the height and width of the original image, or of the input if they are unknown."""
    size = sample.get("ori_shape") or sample.get("img_shape") or inputs.shape[-2:]
    return int(size[0]), int(size[1])


def _names_labels(config: ConfigLike | None) -> bool:
    return isinstance(config, str) or any(key in (config or {}) for key in ("num_labels", "id2label"))
