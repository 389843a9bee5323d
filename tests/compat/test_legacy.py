"""Names that NumPy, PyTorch and others have removed, and packages that no longer exist."""

import json
import subprocess
import sys
import textwrap
from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import ImageFont
from torch import nn

from trainwright.compat import legacy
from trainwright.compat.stand_ins import pkg_resources, xtcocotools
from trainwright.compat.stand_ins.distutils import LooseVersion, strtobool


def execute(code, name="mmdet.m", file=None):
    """Run the code of a module, and return its names."""
    names = {"__name__": name, "__file__": file}
    exec(textwrap.dedent(code), names)
    return names


@pytest.fixture
def restored():
    """Restore the removed names of a module, for one test: a function of the module and of its classes."""

    def restore(module, *owners):
        before = [(owner, dict(vars(owner))) for owner in (module, *owners)]
        legacy.PATCHES[module.__name__](module)
        added.extend(
            (owner, name, names.get(name))
            for owner, names in before
            for name, value in vars(owner).items()
            if names.get(name) is not value
        )

    added = []
    yield restore
    for owner, name, value in added:
        delattr(owner, name) if value is None else setattr(owner, name, value)


def test_numpy(restored):
    restored(np)
    execute("""
        import numpy as np
        from numpy import Inf, float as number
        a = np.array([[3.0, 1.0], [2.0, 4.0]])
        assert Inf == np.PINF == -np.NINF == np.inf and np.isnan(np.NaN) and number is float and np.int(2.5) == 2
        assert np.bool8 is np.bool_ and np.float_ is np.float64 and np.object is object and np.int0(3.9) == 3
        assert np.product(a) == 24 and np.cumproduct(a).tolist() == [3, 3, 6, 24] and np.alltrue(a > 0)
        assert np.trapz(a[0]) == 2 and np.round_(1.26, 1) == 1.3
        assert np.in1d(a, [1, 2]).tolist() == [False, True, True, False]
        assert np.in1d(a, [1, 2], invert=True).tolist() == [True, False, False, True]
        assert np.msort(a).tolist() == [[2, 1], [3, 4]] and np.asscalar(np.array([5])) == 5
        assert np.asfarray([1, 2]).dtype == np.asfarray([1, 2], int).dtype == np.float64
        assert np.cast["uint8"]([1.5]).tolist() == [1] and np.float32 in np.sctypes["float"]
        assert np.find_common_type([np.float32], [np.float64]) == np.float32
        assert np.find_common_type([np.int64], [np.float32]) == np.float32
        assert np.find_common_type([np.int8, np.int32], []) == np.int32
        assert not hasattr(np, "no_name")
    """)
    for name in ("float", "Inf", "bool8", "product", "in1d", "sctypes"):
        with pytest.raises(AttributeError, match=name):
            getattr(np, name)
        with pytest.raises(AttributeError, match=name):
            execute(f"import numpy; numpy.{name}", "mmdetection_of_mine")


def test_transformers(restored, monkeypatch):
    names = "transformers", "transformers.modeling_utils", "transformers.pytorch_utils"
    package, models, utils = (ModuleType(name) for name in names)
    for name, module in zip(names, (package, models, utils)):
        monkeypatch.setitem(sys.modules, name, module)
    package.GenerationMixin = utils.apply_chunking_to_forward = utils.prune_linear_layer = object()
    restored(models)
    found = execute("""
        from transformers.modeling_utils import (
            GenerationMixin, apply_chunking_to_forward, find_pruneable_heads_and_indices, prune_linear_layer)
        heads, kept = find_pruneable_heads_and_indices([1, 2, 5], 5, 2, {1})  # of six heads, one was removed before
    """)
    assert found["GenerationMixin"] is found["apply_chunking_to_forward"] is package.GenerationMixin
    assert found["heads"] == {2, 5} and found["kept"].tolist() == [0, 1, 4, 5, 6, 7]
    with pytest.raises(AttributeError, match="find_pruneable"):
        models.find_pruneable_heads_and_indices  # noqa: B018


def test_all_former_names_of_numpy_have_a_value():
    assert all(value() is not None for value in legacy._NUMPY.values())


def test_matplotlib_and_pillow(restored):
    restored(import_module("PIL.ImageFont"), ImageFont.FreeTypeFont, ImageFont.ImageFont)
    restored(import_module("matplotlib.backends.backend_agg"), FigureCanvasAgg)
    restored(import_module("matplotlib.cm"))
    names = execute("""
        import numpy as np
        import matplotlib.cm
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import ImageFont
        font = ImageFont.load_default(size=20)
        width, height = font.getsize("wide")
        assert width > height > 10
        canvas = FigureCanvasAgg(Figure(figsize=(2, 1), dpi=10, facecolor=(1, 0, 0)))
        canvas.draw()
        assert np.frombuffer(canvas.tostring_rgb(), np.uint8).reshape(10, 20, 3)[5, 5].tolist() == [255, 0, 0]
        assert matplotlib.cm.get_cmap("jet").N == 256
    """)
    assert not hasattr(names["font"], "getsize") and not hasattr(FigureCanvasAgg, "tostring_rgb")
    assert not hasattr(names["canvas"], "tostring_rgb")


def test_torch(restored):
    import torch.ao.quantization.fuser_method_mappings as mappings
    from torch.ao.quantization.backend_config import backend_config

    restored(mappings)
    restored(backend_config, backend_config.BackendPatternConfig)
    names = execute("""
        from torch import nn
        from torch.ao.nn.intrinsic import LinearReLU
        from torch.ao.quantization.backend_config import BackendConfig, BackendPatternConfig
        from torch.ao.quantization.fuser_method_mappings import reverse2, reverse_sequential_wrapper2
        assert reverse2(lambda is_qat, a, b: (a, b))(False, 1, 2) == (2, 1)
        linear, relu = nn.Linear(1, 1), nn.ReLU()
        assert list(reverse_sequential_wrapper2(LinearReLU)(False, relu, linear)) == [linear, relu]
    """)
    mmrazor = ModuleType("mmrazor.m")
    vars(mmrazor).update({name: names[name] for name in ("nn", "BackendConfig", "BackendPatternConfig")})
    legacy.PATCHES["mmrazor.structures.quantization.backend_config.tensorrt"](mmrazor)
    mmrazor.config = names["BackendConfig"]()
    exec("config.set_backend_pattern_config(BackendPatternConfig((nn.ReLU, nn.Linear)))", vars(mmrazor))
    assert list(mmrazor.config._pattern_complex_format_to_config) == [(nn.ReLU, nn.Linear)]
    exec("one = BackendPatternConfig(nn.Linear)._set_input_output_observed(False)", vars(mmrazor))
    assert mmrazor.one.pattern is nn.Linear and mmrazor.one.observation_type.name == "INPUT_OUTPUT_NOT_OBSERVED"


@pytest.mark.parametrize(("backend", "expected"), [("opencv", 3), ("matplotlib", np.array([3.5]))])
def test_radius_of_mmpose(backend, expected):
    class OpencvBackendVisualizer:
        def draw_circles(self, center, radius, alpha=1.0):
            return (int(radius) if self.backend == "opencv" else radius), alpha

    module = ModuleType("mmpose.m")
    module.OpencvBackendVisualizer = OpencvBackendVisualizer
    OpencvBackendVisualizer.backend = backend
    legacy.PATCHES["mmpose.visualization.opencv_backend_visualizer"](module)
    assert OpencvBackendVisualizer().draw_circles([1, 2], np.array([3.5]), alpha=0.5) == (expected, 0.5)


def test_cropping_a_figure_without_a_renderer(restored):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    from matplotlib import _tight_bbox, transforms

    restored(_tight_bbox)
    figure = pyplot.figure(figsize=(4, 3), dpi=100)
    figure.add_subplot()
    _tight_bbox.adjust_bbox(figure, transforms.Bbox([[0, 0], [2, 1]]))
    assert figure.bbox.size.tolist() == [200, 100]
    pyplot.close(figure)


def test_floats_of_mmdet3d():
    module = ModuleType("mmdet3d.m")
    legacy.PATCHES["mmdet3d.evaluation.functional.indoor_eval"](module)
    exec("values = list(map(float, [np.array([0.5]), np.array(2), '3', 4]))", {"np": np, **vars(module)}, vars(module))
    assert module.values == [0.5, 2.0, 3.0, 4.0]


def test_texts_of_numbers_that_mmrazor_evaluates():
    module = ModuleType("mmrazor.m")
    legacy.PATCHES["mmrazor.structures.subnet.candidate"](module)
    text = str({0: np.str_("shuffle_3x3"), 1: np.float64(0.5)})
    assert eval(text, vars(module)) == {0: "shuffle_3x3", 1: 0.5}


def test_scripts_of_a_library():
    code = "import sys; frame = sys._getframe()"
    for file, expected in (("/env/mmdet/.mim/tools/train.py", True), ("/home/me/train.py", False), (None, False)):
        assert legacy.is_library(execute(code, "__main__", file)["frame"]) == expected


def test_installed(tmp_path):
    """In a process of its own: what a library sees after install(), and what others see before and after it."""
    for path, content in {
        "mmpose/__init__.py": "from xtcocotools.cocoeval import COCOeval; import xtcocotools.mask as mask",
        "mmseg/__init__.py": """
            import numpy, pkg_resources, warnings
            from matplotlib.tight_bbox import adjust_bbox
            infinite = numpy.Inf
            warnings.warn("old", FutureWarning)
        """,
        "mmcv.py": "__version__ = '2.2.0'",
        "xtcocotools/__init__.py": "",
        "xtcocotools/mask.py": "raise ValueError('numpy.dtype size changed')",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(textwrap.dedent(content))
    code = """
        import importlib.util, sys, warnings
        import numpy
        import trainwright.compat.legacy
        original = numpy.__getattr__
        assert original.__module__ == "numpy" and importlib.util.find_spec("matplotlib.tight_bbox") is None
        from trainwright.compat import install
        install()
        install()
        assert sum(type(finder).__name__ == "StandInFinder" for finder in sys.meta_path) == 1
        with warnings.catch_warnings(record=True) as seen:
            import mmseg, mmpose
            warnings.warn("new", FutureWarning)
        assert [str(warning.message) for warning in seen] == ["new"], seen
        assert mmseg.infinite == numpy.inf and not hasattr(numpy, "Inf")
        assert mmpose.COCOeval.__module__ == "trainwright.compat.stand_ins.xtcocotools"
        assert mmpose.mask.encode.__module__ == "pycocotools.mask"
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_pkg_resources():
    torch_version = pkg_resources.get_distribution("torch").version
    assert torch_version.partition("+")[0] == torch.__version__.partition("+")[0]
    assert pkg_resources.parse_version("1.10") > pkg_resources.parse_version("1.9")
    with pytest.raises(pkg_resources.VersionConflict, match="torch"):
        pkg_resources.require("torch<1")
    with pytest.raises(pkg_resources.DistributionNotFound, match="no-such-package"):
        pkg_resources.require("no-such-package")
    assert pkg_resources.resource_filename("torch", "version.py").endswith("torch/version.py")


@pytest.mark.parametrize(
    ("low", "high"), [("1.9.0", "1.10"), ("1.5", "1.5.1"), ("1.5a", "1.5b"), ("1.10.0+cpu", "1.10.1+cpu")]
)
def test_loose_versions(low, high):
    assert LooseVersion(low) < high and LooseVersion(high) > LooseVersion(low) and LooseVersion(low) == low
    assert strtobool("Yes") == 1 and strtobool("off") == 0
    with pytest.raises(ValueError, match="maybe"):
        strtobool("maybe")


# Keypoints. The numbers are those of xtcocotools 1.14.3.


@pytest.fixture
def coco_files(tmp_path):
    """Write annotations and predictions of two people, with two keypoints of the body and one of each other part."""
    parts = ("foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    annotations, predictions = [], []
    for number, (x, error) in enumerate(((10, 0), (100, 4))):
        points = [x, 20, 2, x + 30, 60, 1 if number else 0]
        annotations.append(
            dict(
                id=number, image_id=number, category_id=1, bbox=[x, 20, 40, 100], area=1200, keypoints=points,
                num_keypoints=2 - number, **{part: [x + 5, 70, 2] for part in parts},
            )
        )  # fmt: skip
        predictions.append(
            dict(
                image_id=number, category_id=1, score=0.9 - 0.3 * number,
                keypoints=[x + error, 20, 1, x + 30, 60, 1],
                foot_kpts=[x + 5, 70 + 3 * error, 1], face_kpts=[x + 5, 70, 1], lefthand_kpts=[x + 5, 70, 0],
                righthand_kpts=[x + 7, 70, 1],
            )
        )  # fmt: skip
    images = [dict(id=i, file_name="x", width=300, height=300, crowdIndex=0.5 * i) for i in range(2)]
    file, result = tmp_path / "gt.json", tmp_path / "dt.json"
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=[dict(id=1, name="person")])))
    result.write_text(json.dumps(predictions))
    return file, result


@pytest.mark.parametrize(
    ("kind", "points", "of_area", "of_box"),
    [
        ("keypoints", 2, (0.802, 0.8), (0.8515, 0.85)),
        ("keypoints_body", 2, (0.802, 0.8), (0.8515, 0.85)),
        ("keypoints_foot", 1, (0.505, 0.5), (0.505, 0.5)),
        ("keypoints_face", 1, (1, 1), (1, 1)),
        ("keypoints_lefthand", 1, (0, 0), (0, 0)),
        ("keypoints_righthand", 1, (0.7, 0.7), (0.9, 0.9)),
        ("keypoints_wholebody", 6, (0.7525, 0.75), (0.802, 0.8)),
    ],
)
@pytest.mark.filterwarnings("ignore:predictions without")
def test_keypoints_of_parts(coco_files, kind, points, of_area, of_box):
    for use_area, expected in ((True, of_area), (False, of_box)):
        stats = evaluated(coco_files, kind, points, use_area)
        assert len(stats) == 10 and stats[[0, 5]] == pytest.approx(expected, abs=1e-4)


def test_keypoints_in_crowds(coco_files):
    assert evaluated(coco_files, "keypoints_crowd", 2, True) == pytest.approx(
        [0.802, 1, 1, 0.8, 1, 1, 1, 0.6, -1], abs=1e-4
    )


def test_part_scores_sort_predictions(coco_files):
    result = coco_files[1]
    predictions = json.loads(result.read_text())
    for prediction, score in zip(predictions, (0.1, 0.2)):
        prediction["foot_score"] = score
    result.write_text(json.dumps(predictions))
    assert evaluated(coco_files, "keypoints_foot", 1, True)[0] == pytest.approx(0.2525, abs=1e-4)


def test_no_predictions(coco_files):
    coco_files[1].write_text("[]")
    assert evaluated(coco_files, "keypoints", 2, True)[0] == 0


def test_chosen_keypoints(coco_files):
    annotations = xtcocotools.COCO(str(coco_files[0]), test_index=[1])
    assert annotations.anns[0]["keypoints"] == [40, 60, 0] and annotations.anns[0]["iscrowd"] is False
    again = xtcocotools.COCO(ann_data=json.loads(coco_files[0].read_text()))
    assert again.anns[0]["keypoints"] == [10, 20, 2, 40, 60, 0]


def evaluated(files, kind, points, use_area):
    """Return the statistics of an evaluation."""
    annotations = xtcocotools.COCO(str(files[0]))
    predictions = annotations.loadRes(json.loads(files[1].read_text()) or [])
    evaluation = xtcocotools.COCOeval(annotations, predictions, kind, np.full(points, 0.05), use_area)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.params.iouType == kind
    return np.array(evaluation.stats)
