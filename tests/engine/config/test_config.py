"""Config, a ConfigDict with the file that it was read from."""

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainwright.engine.config import Config, ConfigDict
from trainwright.engine.config.overrides import COMMAND_LINE
from trainwright.engine.errors import ConfigError, ConfigFileError, Origin


@pytest.fixture
def cfg(in_tmp: Path) -> Config:
    Path("c.py").write_text("model = dict(type='A',\n  layers=[dict(n=1), dict(n=2)], betas=(0.9, 0.99))\nlr = 0.1\n")
    return Config.fromfile("c.py")


class TestDelegation:
    def test_reads_and_writes_the_keys(self, cfg: Config) -> None:
        assert cfg.model.type == cfg["model"]["type"] == "A"
        assert (cfg.get("lr"), cfg.get("none", 3), len(cfg), list(cfg), "lr" in cfg) == (
            0.1,
            3,
            2,
            ["model", "lr"],
            True,
        )
        cfg.extra = {"a": {"b": 1}}
        cfg["other"] = [{"c": 2}]
        assert cfg.extra.a.b == 1 and cfg.other[0].c == 2
        assert list(cfg.keys()) == [key for key, _ in cfg.items()] == ["model", "lr", "extra", "other"]
        assert cfg.pop("extra") == {"a": {"b": 1}} and cfg.pop("extra", None) is None
        cfg.update(model={"depth": 3})
        assert cfg.model.type == "A" and cfg.model.depth == 3
        del cfg.lr
        with pytest.raises(AttributeError, match="no attribute 'lr'"):
            _ = cfg.lr
        with pytest.raises(KeyError):
            cfg.pop("lr")
        assert isinstance(cfg, Mapping) and dict(**cfg).keys() == {"model", "other"}

    def test_representation(self, cfg: Config) -> None:
        del cfg["model"]
        assert repr(cfg) == "Config (path: c.py): {'lr': 0.1}"

    def test_rejects_invalid_keys_and_arguments(self) -> None:
        with pytest.raises(TypeError, match="cfg_dict must be a dict, not list"):
            Config([1])  # type: ignore[arg-type]
        for key in ("filename", "text", "pretty_text", "env_variables"):
            with pytest.raises(ConfigError, match=f"{key}: this name is reserved"):
                Config({key: 1})
        with pytest.raises(AttributeError, match=r"write cfg\['dump'\] = "):
            Config().dump = 3  # type: ignore[method-assign, assignment]

    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg))])
    def test_deep_copies(self, cfg: Config, duplicate: object) -> None:
        other = duplicate(cfg)  # type: ignore[operator]
        assert other == cfg and (other.filename, other.text) == (cfg.filename, cfg.text)
        assert str(other.model.origin("betas")) == "c.py:2" and str(other.origin("lr")) == "c.py:3"
        other.model.layers[0].n = 5
        assert cfg.model.layers[0].n == 1

    def test_a_copy_has_its_own_keys(self, cfg: Config) -> None:
        other = cfg.copy()
        other.lr = 1
        assert cfg.lr == 0.1 and other.model is cfg.model

    def test_a_given_config_dict_is_used_as_it_is(self) -> None:
        keys = ConfigDict(a=1)
        assert Config(keys)._cfg_dict is keys


class TestMergeFromDict:
    def test_dotted_paths_with_origins(self, cfg: Config) -> None:
        options = {
            "model.layers.0.n": 7,
            "model.betas.1": 0.5,
            "new.deep.key": [1],
            "model.layers.-1": {"n": 3, "m": {}},
        }
        cfg.merge_from_dict(options, origin=COMMAND_LINE)
        assert cfg.model == {"type": "A", "layers": [{"n": 7}, {"n": 3, "m": {}}], "betas": (0.9, 0.5)}
        assert cfg.new.deep.key == [1]
        assert cfg.model.layers[0].origin("n") == cfg.new.deep.origin("key") == Origin("--cfg-options")
        assert str(cfg.model.origin("type")) == "c.py:1" and str(cfg.model.origin("layers")) == "c.py:2"

    def test_dictionaries_merge_and_delete(self, cfg: Config) -> None:
        cfg.merge_from_dict({"model": {"_delete_": True, "type": "B"}, "model.n": 1})
        assert cfg.model == {"type": "B", "n": 1}
        cfg.merge_from_dict({"model": {"m": 2}})
        assert cfg.model == {"type": "B", "n": 1, "m": 2}

    def test_indices_as_nested_keys(self, cfg: Config) -> None:
        cfg.merge_from_dict({"model": {"layers": {"1": {"n": 9}}}})
        assert cfg.model.layers == [{"n": 1}, {"n": 9}]

    def test_the_old_dictionary_is_not_changed(self, cfg: Config) -> None:
        before = cfg.model
        cfg.merge_from_dict({"model.layers.0.n": 7})
        assert before.layers[0].n == 1

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"lr.a": 1}, "lr: a dict cannot be merged into 0.1"),
            ({"model.layers.2.n": 1}, "model.layers.2: model.layers has only 2 elements"),
            ({"model.layers.n": 1}, "model.layers.n: model.layers is a list: .* index"),
        ],
    )
    def test_mistakes_change_nothing(self, cfg: Config, options: dict[str, int], message: str) -> None:
        before = cfg.to_dict()
        with pytest.raises(ConfigError, match=f"^--cfg-options: {message}"):
            cfg.merge_from_dict({"model.type": "C", **options}, origin=COMMAND_LINE)
        assert cfg.to_dict() == before

    def test_without_list_keys(self, cfg: Config) -> None:
        with pytest.raises(ConfigError, match=r"model.layers: a dict cannot be merged into \["):
            cfg.merge_from_dict({"model.layers.0.n": 1}, allow_list_keys=False)


class TestFromString:
    def test_every_format(self, in_tmp: Path) -> None:
        Path("base.py").write_text("a = dict(x=1)\n")
        texts = {
            ".py": "_base_ = 'base.py'\na = dict(y=2)\n",
            ".yaml": "_base_: base.py\na: {y: 2}\n",
            ".json": '{"_base_": "base.py", "a": {"y": 2}}',
        }
        for suffix, text in texts.items():
            cfg = Config.fromstring(text, suffix)
            assert cfg == {"a": {"x": 1, "y": 2}} and cfg.filename is None
            assert cfg.a.origin("y") is not None and cfg.a.origin("y").file == "<string>"
        assert [path.name for path in in_tmp.iterdir()] == ["base.py"]

    def test_an_unknown_format(self) -> None:
        with pytest.raises(ConfigFileError, match="config format"):
            Config.fromstring("", ".toml")


def test_the_difference_of_two_configs(cfg: Config) -> None:
    other = copy.deepcopy(cfg)
    assert Config.diff(cfg, other) == ""
    other.lr = 0.2
    assert [line for line in Config.diff("c.py", other).splitlines() if line[0] in "+-"][2:] == [
        "-lr = 0.1",
        "+lr = 0.2",
    ]


def test_merging_dictionaries_under_the_name_of_mmengine() -> None:
    a, b = dict(obj=dict(a=2), n=3), dict(obj=dict(a=1, b=1))
    assert Config._merge_a_into_b(a, b) == dict(obj=dict(a=2, b=1), n=3)
    assert b == dict(obj=dict(a=1, b=1))
    assert Config._merge_a_into_b(dict(obj=dict(_delete_=True, a=2)), b) == dict(obj=dict(a=2))
    assert Config._merge_a_into_b({"0": dict(a=2)}, [dict(a=1), dict(b=2)], True) == [dict(a=2), dict(b=2)]  # type: ignore[arg-type]
