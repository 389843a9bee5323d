"""A log processor that was copied from MMEngine."""

import pytest
from tiny_runs import make_runner

from trainwright.compat.mmengine.runner import LogProcessor


class Copied(LogProcessor):
    """A log processor with the helpers of MMEngine's."""

    def get_log_after_iter(self, runner, batch_idx, mode):
        """Return what the helpers return."""
        entries = self._parse_windows_size(runner, batch_idx)
        tag = self._collect_scalars(entries, runner, mode)
        prefixed = self._collect_scalars(entries, runner, mode, reserve_prefix=True)
        assert sorted(prefixed) == sorted(f"{mode}/{name}" for name in tag)
        seen.append(
            (self._get_epoch(runner, mode), self._get_iter(runner, batch_idx), [e["window_size"] for e in entries])
        )
        return {"loss_max": tag["loss_max"]}, "line"


seen = []


def test_helpers(tmp_path):
    entry = dict(data_src="loss", log_name="loss_max", method_name="max", window_size="epoch")
    custom_cfg = [entry, {**entry, "log_name": "all", "window_size": "global"}]
    runner = make_runner(
        tmp_path, log_processor=dict(type=Copied, custom_cfg=custom_cfg), train_cfg=dict(max_epochs=2)
    )  # fmt: skip
    runner.train()
    assert seen == [(1, 2, [2, 2]), (2, 2, [2, 4])]
    runner.message_hub.update_info("val/curve", "x")
    processor = runner.log_processor
    assert processor._collect_non_scalars(runner, "val") == {"curve": "x"}
    processor.by_epoch, processor.log_with_hierarchy = False, True
    assert processor._collect_non_scalars(runner, "val") == {"val/curve": "x"}
    assert processor._get_iter(runner, 0) == runner.iter + 1 and processor._get_epoch(runner, "val") == 2
    with pytest.raises(ValueError, match="test"):
        processor._get_epoch(runner, "test")
