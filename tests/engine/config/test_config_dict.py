"""ConfigDict: attribute access, nested conversion, merging and origins."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwright.engine.config.config import Config
from trainwright.engine.config.config_dict import ConfigDict, copy_containers, merge_into
from trainwright.engine.errors import ConfigError, Origin

on_any_machine = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
HERE = Origin("/cfg.py", 3)
THERE = Origin("/base.py", 7)


def with_origins(value: Any, origin: Origin) -> Any:
    return copy_containers(value, origin)


class TestAccess:
    def test_keys_are_attributes_and_items(self) -> None:
        cfg = ConfigDict(a=1, b={"c": [2, {"d": 3}]})
        assert (cfg.a, cfg["a"], cfg.b.c[1].d) == (1, 1, 3)
        cfg.b.e = {"f": 4}
        assert cfg["b"]["e"].f == 4
        del cfg.a
        assert "a" not in cfg

    def test_a_missing_attribute_is_an_attribute_error_and_a_missing_item_a_key_error(self) -> None:
        cfg = ConfigDict(depth=1)
        with pytest.raises(AttributeError, match="'ConfigDict' object has no attribute 'dept'"):
            _ = cfg.dept
        with pytest.raises(KeyError, match="dept"):
            _ = cfg["dept"]
        with pytest.raises(AttributeError):
            del cfg.dept
        assert getattr(cfg, "dept", None) is None and not hasattr(cfg, "dept")
        assert "depth" in dir(cfg)

    def test_pop_raises_as_dict_does(self) -> None:
        cfg = ConfigDict(a=1)
        assert cfg.pop("a") == 1
        assert cfg.pop("a", 5) == 5
        with pytest.raises(KeyError):
            cfg.pop("a")

    def test_methods_cannot_be_overwritten_by_attribute(self) -> None:
        cfg = ConfigDict()
        with pytest.raises(AttributeError, match=r"write cfg\['items'\] = "):
            cfg.items = 3  # type: ignore[method-assign, assignment]
        cfg["items"] = 3
        assert cfg["items"] == 3 and list(cfg.items()) == [("items", 3)]

    def test_unpacks_like_a_dict(self) -> None:
        cfg = ConfigDict({"a": 1, 0: "zero"})
        assert {**cfg} == dict(cfg) == {"a": 1, 0: "zero"}
        assert dict(**ConfigDict(b=2)) == {"b": 2}

    def test_reading_an_item_is_a_plain_dict_lookup(self) -> None:
        assert ConfigDict.__getitem__ is dict.__getitem__
        assert ConfigDict.get is dict.get
        assert ConfigDict.__iter__ is dict.__iter__


class TestConversion:
    def test_every_way_to_add_a_dictionary(self) -> None:
        cfg = ConfigDict([("pairs", {"x": 1})], kw={"x": 1})
        cfg["item"] = {"x": 1}
        cfg.attribute = OrderedDict(x=1)
        cfg.update(updated={"x": 1})
        cfg.setdefault("default", {"x": 1})
        cfg |= {"ored": {"x": 1}}
        cfg.deep = ([{"x": 1}],)
        for key in ("pairs", "kw", "item", "attribute", "updated", "default", "ored"):
            assert type(cfg[key]) is ConfigDict and cfg[key].x == 1, key
        assert type(cfg.deep) is tuple and type(cfg.deep[0]) is list and cfg.deep[0][0].x == 1

    def test_subclasses_stay_what_they_are(self) -> None:
        class Mine(dict[str, int]):
            pass

        Point = namedtuple("Point", "x y")
        mine, point = Mine(a=1), Point(1, 2)
        cfg = ConfigDict(mine=mine, point=point)
        assert cfg.mine is mine and cfg.point is point

    def test_lists_are_copied(self) -> None:
        values = [1, 2]
        cfg = ConfigDict(values=values)
        values.append(3)
        assert cfg["values"] == [1, 2]

    def test_or_gives_a_new_config_dict(self) -> None:
        left = ConfigDict(a=1, b={"x": 1})
        assert left | {"b": {"y": 2}} == {"a": 1, "b": {"y": 2}}
        assert type(left | {"c": {}}) is ConfigDict and "c" not in left
        assert {"a": 0, "z": 1} | left == {"a": 1, "z": 1, "b": {"x": 1}}

    def test_to_dict_is_plain_all_the_way_down(self) -> None:
        plain = ConfigDict(a={"b": [{"c": ({"d": 1},)}]}).to_dict()
        assert plain == {"a": {"b": [{"c": ({"d": 1},)}]}}
        assert type(plain) is type(plain["a"]) is type(plain["a"]["b"][0]) is type(plain["a"]["b"][0]["c"][0]) is dict


class TestCopies:
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg))])
    def test_deep_copies_keep_origins_and_share_nothing(self, duplicate: Any) -> None:
        cfg = with_origins({"a": {"b": [{"c": 1}]}}, HERE)
        other = duplicate(cfg)
        assert other == cfg and type(other) is ConfigDict
        assert other.a.b[0].origin("c") == HERE
        other.a.b[0].c = 2
        assert cfg.a.b[0].c == 1

    @pytest.mark.parametrize("duplicate", [copy.copy, ConfigDict.copy, ConfigDict])
    def test_shallow_copies_keep_origins_and_share_values(self, duplicate: Any) -> None:
        cfg = with_origins({"a": {"b": 1}}, HERE)
        other = duplicate(cfg)
        assert other.origin("a") == HERE and other.a is cfg.a
        other.c = 1
        assert "c" not in cfg


class TestOrigins:
    def test_set_get_and_remove(self) -> None:
        cfg = ConfigDict(a=1)
        assert cfg.origin("a") is None
        cfg.set_origin("a", HERE)
        assert cfg.origin("a") == HERE and cfg.origin("b") is None
        cfg.a = 2
        assert cfg.origin("a") is None, "code outside of a config has set it"

    def test_a_deleted_key_has_none(self) -> None:
        cfg = with_origins({"a": 1}, HERE)
        del cfg["a"]
        assert cfg.origin("a") is None
        cfg.setdefault("a", 2)
        assert cfg.origin("a") is None

    def test_they_travel_with_a_merge(self) -> None:
        base = with_origins({"m": {"a": 1, "b": 2}, "l": [1]}, THERE)
        base.merge(with_origins({"m": {"b": 3, "c": 4}, "l": [2]}, HERE))
        assert base.m == {"a": 1, "b": 3, "c": 4}
        assert [base.m.origin(key) for key in "abc"] == [THERE, HERE, HERE]
        assert (base.origin("m"), base.origin("l")) == (THERE, HERE)

    def test_a_replaced_dictionary_has_the_new_one(self) -> None:
        base = with_origins({"m": {"a": 1}}, THERE)
        base.merge(with_origins({"m": {"_delete_": True, "b": 1}}, HERE))
        assert base.m == {"b": 1} and base.origin("m") == HERE


class TestMerge:
    def test_update_and_merge_are_recursive(self) -> None:
        cfg = ConfigDict(a={"b": {"c": 1, "d": 2}}, x=[1, 2])
        cfg.update({"a": {"b": {"c": 3}}}, x=[5])
        assert cfg == {"a": {"b": {"c": 3, "d": 2}}, "x": [5]}
        cfg.update([("a", 1)])
        assert cfg.a == 1
        with pytest.raises(TypeError, match="at most 1"):
            cfg.update({}, {})

    def test_delete_replaces_at_any_depth_and_is_removed(self) -> None:
        cfg = ConfigDict(a={"b": {"c": 1}, "k": 1})
        source = {
            "a": {"b": {"_delete_": True, "d": {"_delete_": True, "e": 1}}},
            "new": [{"_delete_": True}],
        }
        before = copy.deepcopy(source)
        cfg.merge(source)
        assert cfg == {"a": {"b": {"d": {"e": 1}}, "k": 1}, "new": [{}]}
        assert source == before, "the source is left as it was"
        cfg.merge({"_delete_": True, "z": 1})
        assert cfg == {"z": 1}

    def test_delete_false_merges(self) -> None:
        cfg = ConfigDict(a={"b": 1})
        cfg.merge({"a": {"_delete_": False, "c": 2}})
        assert cfg == {"a": {"b": 1, "c": 2}}

    def test_nothing_of_the_source_becomes_part_of_the_target(self) -> None:
        source = ConfigDict(a={"b": [1]})
        target = ConfigDict()
        target.merge(source)
        target.a.b.append(2)
        target.a.c = 1
        assert source == {"a": {"b": [1]}}

    def test_strict_rejects_a_dictionary_in_place_of_a_value(self) -> None:
        base, child = with_origins({"lr": 0.1}, THERE), with_origins({"lr": {"a": 1}}, HERE)
        with pytest.raises(ConfigError, match=r"/cfg.py:3: lr: a dict cannot be merged into 0.1") as caught:
            merge_into(base, child, strict=True)
        assert "_delete_=True" in caught.value.hint
        base.merge(child)
        assert base.lr == {"a": 1}

    def test_list_keys(self) -> None:
        cfg = ConfigDict(p=[{"t": "A", "n": 1}, {"t": "B"}], betas=(0.9, 0.99), grid=[[1, 2], [3]])
        merge_into(
            cfg,
            {"p": {"0": {"t": "C"}, "1": 5}, "betas": {"1": 0.5}, "grid": {"0": {"-1": 7}}},
            list_keys=True,
        )
        assert cfg == {"p": [{"t": "C", "n": 1}, 5], "betas": (0.9, 0.5), "grid": [[1, 7], [3]]}

    @pytest.mark.parametrize(
        "key, message",
        [("3", "p.3: p has only 2 elements"), ("x", "p.x: p is a list: .* index")],
    )
    def test_list_keys_that_do_not_exist(self, key: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            merge_into(ConfigDict(p=[1, 2]), {"p": {key: 1}}, list_keys=True)

    def test_list_key_origins(self) -> None:
        cfg = with_origins({"p": [{"n": 1}], "betas": (1, 2)}, THERE)
        merge_into(cfg, {"p": {"0": {"n": 2}}, "betas": {"0": 3}}, list_keys=True, origin=HERE)
        assert (cfg.p[0].origin("n"), cfg.origin("p"), cfg.origin("betas")) == (HERE, THERE, HERE)


NAMES = st.sampled_from(["a", "b", "c", "d"])
TREES = st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
DICTS = st.dictionaries(NAMES, TREES, max_size=4)


def plain_merge(base: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = plain_merge(base[key], value) if both else value
    return merged


class TestMergeProperties:
    @on_any_machine
    @given(DICTS, DICTS)
    def test_agrees_with_a_model_on_plain_dictionaries(self, base: dict[str, Any], child: dict[str, Any]) -> None:
        merged = ConfigDict(copy.deepcopy(base))
        merged.merge(copy.deepcopy(child))
        assert merged.to_dict() == plain_merge(base, child)

    @on_any_machine
    @given(DICTS, DICTS)
    def test_merging_twice_changes_nothing_more(self, base: dict[str, Any], child: dict[str, Any]) -> None:
        once = ConfigDict(base)
        once.merge(child)
        twice = copy.deepcopy(once)
        twice.merge(child)
        assert twice == once

    @on_any_machine
    @given(DICTS, DICTS)
    def test_every_key_of_two_files_knows_one_of_them(self, base: dict[str, Any], child: dict[str, Any]) -> None:
        merged = with_origins(base, THERE)
        merge_into(merged, with_origins(child, HERE))

        def check(keys: ConfigDict, below: dict[str, Any]) -> None:
            for key, value in keys.items():
                origin = keys.origin(key)
                if isinstance(value, ConfigDict):
                    assert origin in (HERE, THERE)
                    inner = below.get(key)
                    check(value, inner if isinstance(inner, dict) else {})
                else:
                    assert origin == (HERE if key in below else THERE)

        check(merged, child)


@pytest.mark.parametrize("key", ["self", "cls", "mapping", "args", "kwargs", "name", "type"])
def test_any_key_can_be_a_keyword(tmp_path, key):
    """Several keys are also names of arguments in the code of dictionaries."""
    assert ConfigDict(**{key: 1}) == {key: 1}
    (tmp_path / "config.py").write_text(f"a = dict({key}=1)\nb = dict(a, {key}=2)\n")
    cfg = Config.fromfile(tmp_path / "config.py")
    assert cfg.a == {key: 1} and cfg.b == {key: 2}
