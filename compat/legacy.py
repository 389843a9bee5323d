"""What today's packages have removed and the libraries still use, for them only, and packages that no longer exist."""

import ast
import functools
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FrameType, MethodType, ModuleType
from typing import Any

import numpy as np

# Packages of OpenMMLab, and unmaintained ones that they need.
_CALLERS = """
mmcv mmcls mmpretrain mmdet mmseg mmpose mmaction mmocr mmagic mmyolo mmdet3d mmrazor mmrotate mmtrack mmdeploy
imgaug lvis trackeval
"""
CALLERS = frozenset(_CALLERS.split())
_HERE = "trainwright.compat.stand_ins"
# Modules that are found where there is no other of the name, and the modules with their names.
STAND_INS = {
    "pkg_resources": f"{_HERE}.pkg_resources",
    **dict.fromkeys(("distutils", "distutils.version", "distutils.util"), f"{_HERE}.distutils"),
    **dict.fromkeys(("xtcocotools", "xtcocotools.coco", "xtcocotools.cocoeval"), f"{_HERE}.xtcocotools"),
    "xtcocotools.mask": "pycocotools.mask",
    "matplotlib.tight_bbox": "matplotlib._tight_bbox",
    # imported by mmaction2, whose wheel lacks it
    **dict.fromkeys(("mmaction.models.localizers.drn", "mmaction.models.localizers.drn.drn"), f"{_HERE}.mmaction_drn"),
}


class StandInFinder(MetaPathFinder, Loader):
    """Imports the modules above. It comes last, so that real ones go first."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module."""
        if fullname not in STAND_INS:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in STAND_INS)
        return ModuleSpec(fullname, self, origin=STAND_INS[fullname], is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        """Copy the public names of the counterpart."""
        counterpart = vars(import_module(STAND_INS[module.__name__]))
        public = {name: value for name, value in counterpart.items() if not name.startswith("_")}
        vars(module).update({"__version__": counterpart.get("__version__"), **public})


def is_library(frame: FrameType) -> bool:
    """Return whether the code in a frame belongs to a library, or is one of its scripts."""
    name = str(frame.f_globals.get("__name__"))
    if name == "__main__":
        return not CALLERS.isdisjoint(Path(str(frame.f_globals.get("__file__"))).parts)
    return name.partition(".")[0] in CALLERS


def restore(module: ModuleType, names: Mapping[str, Callable[[], Any]]) -> None:
    """Give a module removed names, for the libraries only.

    Args:
        module: the module.
        names: a function that returns the value of each name.
    """
    original = vars(module).get("__getattr__")

    def __getattr__(name: str) -> Any:
        if name in names and is_library(sys._getframe(1)):
            return names[name]()
        if original is not None:
            return original(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__getattr__ = __getattr__  # type: ignore[method-assign]


class RestoredMethod:
    """A method that only the libraries see.

    Args:
        name: the name.
        function: the method.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._name, self._function = name, function

    def __get__(self, instance: Any, owner: type) -> Any:
        if not is_library(sys._getframe(1)):
            raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}")
        return MethodType(self._function, instance)


def restore_method(owner: type, name: str, function: Callable[..., Any]) -> None:
    """Give a class a removed method, for the libraries only."""
    if not hasattr(owner, name):
        setattr(owner, name, RestoredMethod(name, function))


# NumPy: the names removed by 1.24, https://numpy.org/doc/stable/release/1.24.0-notes.html, and by 2.0,
# https://numpy.org/doc/stable/numpy_2_0_migration_guide.html

_BUILTIN = {"int": int, "float": float, "complex": complex, "object": object, "str": str, "unicode": str}
_RENAMED = """
alltrue:all asfarray:asarray bool8:bool_ bytes0:bytes_ cfloat:complex128 clongfloat:clongdouble complex_:complex128
cumproduct:cumprod float_:float64 Inf:inf Infinity:inf infty:inf int0:intp longcomplex:clongdouble
longfloat:longdouble mat:asmatrix NaN:nan NAN:nan object0:object_ PINF:inf product:prod round_:round row_stack:vstack
singlecomplex:complex64 sometrue:any str0:str_ string_:bytes_ trapz:trapezoid uint0:uintp unicode_:str_ void0:void
"""


def _asfarray(a: Any, dtype: Any = np.float64) -> Any:
    return np.asarray(a, dtype if np.issubdtype(dtype, np.inexact) else np.float64)


def _in1d(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False, **kwargs: Any) -> Any:
    return np.isin(np.asarray(ar1).ravel(), ar2, assume_unique=assume_unique, invert=invert, **kwargs)


def _find_common_type(array_types: Sequence[Any], scalar_types: Sequence[Any]) -> Any:
    """Return the common type of arrays, or that of scalars if these are of a more general kind."""
    arrays, scalars = (np.result_type(*kinds) if kinds else None for kinds in (array_types, scalar_types))
    if arrays is None or scalars is None:
        return arrays if scalars is None else scalars
    order = "buifcO"
    return scalars if order.find(scalars.kind) > order.find(arrays.kind) else arrays


class _Cast(dict[Any, Any]):
    def __missing__(self, kind: Any) -> Any:
        return lambda values: np.asarray(values).astype(kind)


def _kinds() -> dict[str, list[type]]:
    """Return the types of each kind, formerly ``np.sctypes``."""
    groups = {
        "int": "int8 int16 int32 int64",
        "uint": "uint8 uint16 uint32 uint64",
        "float": "float16 float32 float64 longdouble",
        "complex": "complex64 complex128 clongdouble",
    }
    kinds = {group: [getattr(np, name) for name in names.split()] for group, names in groups.items()}
    return {**kinds, "others": [bool, object, bytes, str, np.void]}


_NUMPY: dict[str, Callable[[], Any]] = {
    **{name: lambda value=value: value for name, value in _BUILTIN.items()},  # type: ignore[misc]
    **{name: lambda new=new: getattr(np, new) for name, new in (pair.split(":") for pair in _RENAMED.split())},  # type: ignore[misc]
    "NINF": lambda: -np.inf,
    "NZERO": lambda: -0.0,
    "PZERO": lambda: 0.0,
    "asfarray": lambda: _asfarray,
    "asscalar": lambda: lambda a: a.item(),
    "cast": lambda: _Cast(),
    "find_common_type": lambda: _find_common_type,
    "in1d": lambda: _in1d,
    "issubclass_": lambda: lambda one, other: isinstance(one, type) and issubclass(one, other),
    "issubsctype": lambda: np.issubdtype,
    "msort": lambda: lambda a: np.sort(a, axis=0),
    "obj2sctype": lambda: lambda rep, default=None: np.dtype(rep).type,
    "safe_eval": lambda: ast.literal_eval,
    "sctypes": _kinds,
}


# Other packages. Each function gets a module after it was imported.


def _restore_numpy(numpy: ModuleType) -> None:
    restore(numpy, _NUMPY)


def _restore_canvas(module: Any) -> None:
    def tostring_rgb(self: Any) -> bytes:
        return np.asarray(self.buffer_rgba())[..., :3].tobytes()

    restore_method(module.FigureCanvasAgg, "tostring_rgb", tostring_rgb)


def _restore_color_maps(module: Any) -> None:
    def get_cmap(name: Any = None, lut: int | None = None) -> Any:
        from matplotlib.pyplot import get_cmap

        return get_cmap(name, lut)

    restore(module, {"get_cmap": lambda: get_cmap})


def _restore_renderer(module: Any) -> None:
    adjust_bbox = module.adjust_bbox

    def with_renderer(fig: Any, bbox_inches: Any, renderer: Any = None, fixed_dpi: float | None = None) -> Any:
        return adjust_bbox(fig, bbox_inches, fig.canvas.get_renderer() if renderer is None else renderer, fixed_dpi)

    module.adjust_bbox = with_renderer


def _restore_fonts(module: Any) -> None:
    def getsize(self: Any, text: str, *args: Any, **kwargs: Any) -> tuple[int, int]:
        _, _, right, bottom = self.getbbox(text, *args, **kwargs)
        return int(right), int(bottom)

    for owner in (module.FreeTypeFont, module.ImageFont):
        restore_method(owner, "getsize", getsize)


def _restore_fusing(module: Any) -> None:
    def reverse_sequential_wrapper2(sequential: Any) -> Any:
        return module._reverse2(module._sequential_wrapper2(sequential))

    restore(
        module,
        {
            "reverse2": lambda: module._reverse2,
            "reverse3": lambda: module._reverse3,
            "reverse_sequential_wrapper2": lambda: reverse_sequential_wrapper2,
        },
    )


def _reverse_patterns(module: Any) -> None:
    """Let mmrazor give PyTorch the modules to fuse from last to first, as before PyTorch 2.0."""
    import_module("torch.ao.quantization.backend_config.utils")  # which PyTorch uses without importing it
    config = module.BackendPatternConfig

    def reversed_config(pattern: Any) -> Any:
        return config()._set_pattern_complex_format(pattern) if isinstance(pattern, tuple) else config(pattern)

    module.BackendPatternConfig = reversed_config


def _restore_pattern_config(module: Any) -> None:
    def ignored(self: Any, value: Any) -> Any:
        return self  # the mapping of mmrazor's quantizer repeats it, and PyTorch reads it there

    for name in ("_set_overwrite_output_fake_quantize", "_set_overwrite_output_observer"):
        restore_method(module.BackendPatternConfig, name, ignored)

    def _set_input_output_observed(self: Any, observed: bool) -> Any:
        return self if observed else self.set_observation_type(module.ObservationType.INPUT_OUTPUT_NOT_OBSERVED)

    restore_method(module.BackendPatternConfig, "_set_input_output_observed", _set_input_output_observed)


def _convert_radius(module: Any) -> None:
    """Let mmpose convert an array with one radius to an integer, which NumPy 2.4 refuses."""
    draw = module.OpencvBackendVisualizer.draw_circles

    @functools.wraps(draw)
    def draw_circles(self: Any, center: Any, radius: Any, *args: Any, **kwargs: Any) -> Any:
        number = np.asarray(radius).item() if self.backend == "opencv" else radius
        return draw(self, center, number, *args, **kwargs)

    module.OpencvBackendVisualizer.draw_circles = draw_circles


def _convert_single_elements(module: Any) -> None:
    """Let a module convert arrays with one element by ``float``, which NumPy 2.4 refuses."""
    module.float = lambda value: value.item() if isinstance(value, np.ndarray) else float(value)


def _name_numpy(module: Any) -> None:
    """Let a module evaluate the texts of NumPy's scalars, which begin with ``np.`` since NumPy 2."""
    module.np = np


# transformers: what its version 5 has moved or removed, and mmpretrain and mmdet import.


def _find_pruneable_heads(heads: Any, n_heads: int, head_size: int, already_pruned_heads: set[int]) -> Any:
    """Return the heads that are not pruned yet, and the indices of the elements of an output that remain."""
    heads = set(heads) - already_pruned_heads
    places = [number for number in range(n_heads + len(already_pruned_heads)) if number not in already_pruned_heads]
    kept = [place for place, number in enumerate(places[:n_heads]) if number not in heads]
    index = np.arange(n_heads * head_size).reshape(n_heads, head_size)[kept].ravel()
    return heads, import_module("torch").from_numpy(index)


def _restore_transformers(module: Any) -> None:
    def moved(owner: str, name: str) -> Callable[[], Any]:
        return lambda: getattr(import_module(owner), name)

    restore(
        module,
        {
            "apply_chunking_to_forward": moved("transformers.pytorch_utils", "apply_chunking_to_forward"),
            "prune_linear_layer": moved("transformers.pytorch_utils", "prune_linear_layer"),
            "find_pruneable_heads_and_indices": lambda: _find_pruneable_heads,
            "GenerationConfig": moved("transformers", "GenerationConfig"),
            "GenerationMixin": moved("transformers", "GenerationMixin"),
            "PretrainedConfig": moved("transformers", "PretrainedConfig"),
        },
    )


_RAZOR = "mmrazor.structures.quantization.backend_config"
PATCHES: dict[str, Callable[[Any], None]] = {
    "numpy": _restore_numpy,
    "matplotlib.backends.backend_agg": _restore_canvas,
    "matplotlib._tight_bbox": _restore_renderer,
    "matplotlib.cm": _restore_color_maps,
    "PIL.ImageFont": _restore_fonts,
    "torch.ao.quantization.fuser_method_mappings": _restore_fusing,
    "torch.ao.quantization.backend_config.backend_config": _restore_pattern_config,
    "transformers.modeling_utils": _restore_transformers,
    "mmpose.visualization.opencv_backend_visualizer": _convert_radius,
    "mmdet3d.evaluation.functional.indoor_eval": _convert_single_elements,
    "mmrazor.structures.subnet.candidate": _name_numpy,
    **{f"{_RAZOR}.{name}": _reverse_patterns for name in ("common_operator_config_utils", "tensorrt", "openvino")},
}


def replace_broken_xtcocotools() -> None:
    """Import xtcocotools, or its stand-in if it cannot be loaded, since it was compiled for another NumPy."""
    try:
        import_module("xtcocotools.mask")
    except ModuleNotFoundError:
        raise
    except Exception:
        for name in [name for name in STAND_INS if name.startswith("xtcocotools")]:
            sys.modules.pop(name, None)
            spec = StandInFinder().find_spec(name)
            assert spec is not None and spec.loader is not None
            sys.modules[name] = module = ModuleType(name)
            module.__spec__ = spec
            module.__path__ = []
            spec.loader.exec_module(module)


def install() -> None:
    """Add the finder and the removed names."""
    if any(isinstance(finder, StandInFinder) for finder in sys.meta_path):
        return
    sys.meta_path.append(StandInFinder())
    for name, patch in PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])
    # Nobody will heed what PyTorch and others say to the authors of the libraries.
    for category in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category, module=rf"({'|'.join(sorted(CALLERS))})(\.|$)")
