"""``trainwright export``: export a model, and print how far it differs from PyTorch."""

import sys
from collections.abc import Sequence

from trainwright.engine.config.config import Config
from trainwright.engine.errors import ConfigError, MissingExtraError
from trainwright.engine.export.exporting import export_model
from trainwright.engine.export.formats import shape_text
from trainwright.tools.estimate import shape


def export(
    cfg: Config,
    checkpoint: str,
    format: str,
    output: str,
    fixed: Sequence[str] = (),
    tolerance: float = 1e-4,
    input_shape: str | None = None,
) -> bool:
    """Export a model, print what was written and how far it differs, and return whether it is close enough.

    Args:
        cfg: config of the model.
        checkpoint: file with the weights.
        format: name of the format.
        output: file to write.
        fixed: axes of the inputs with a fixed size.
        tolerance: largest difference allowed.
        input_shape: shape and dtype of random inputs to compare on; the test data if None.
    """
    sample = shape(input_shape)
    try:
        report = export_model(cfg, checkpoint, format, output, fixed=fixed, tolerance=tolerance, input_shape=sample)
    except MissingExtraError as error:
        raise ConfigError("--format", str(error)) from error
    print(f"{report.file.name} {report}")
    if not report.is_close:
        print(f"This is more than the tolerance of {tolerance:g}: no file was written.", file=sys.stderr)
        return False
    print(
        f"Saved {report.file} ({report.size / 1e6:.1f} MB), exported by {report.method}, for inputs of shape "
        f"{shape_text(report.shape)}"
    )
    return True
