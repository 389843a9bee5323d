"""The strategies of MMEngine."""

from functools import partial
from typing import Any

import pytest

from trainwright.compat.mmengine._strategy import _plain, _units
from trainwright.engine import ConfigError
from trainwright.engine.strategy.base import build_strategy


class Block: ...


@pytest.mark.parametrize(
    ("arguments", "units"),
    [({"min_num_params": 1e7}, {"min_params": 1e7}), ({"transformer_layer_cls": {Block}}, {"wrap": ["Block"]})],
)
def test_the_arguments_of_a_policy_choose_the_units_of_fsdp(arguments: dict[str, Any], units: dict[str, Any]) -> None:
    for policy in (arguments, partial(print, **arguments)):
        assert _units(_plain({"auto_wrap_policy": policy})) == units
    with pytest.raises(ConfigError, match="FSDP2 has no function that chooses units"):
        _units(_plain({"auto_wrap_policy": print}))


@pytest.mark.parametrize("name", ["DeepSpeed", "ColossalAI"])
def test_what_is_not_supported_is_refused_in_a_single_process_too(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is not supported"):
        build_strategy({"strategy": {"type": f"{name}Strategy"}})
