"""What the helpers of MMEngine return. Each row was found with MMEngine 0.10.7, which is not installed here."""

import io
import json
import logging
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainwright.compat import finder

ROOMS = {
    name: import_module(f"trainwright.compat.mmengine.{name}")
    for name in ("device", "dist", "dl_utils", "fileio", "logging", "structures", "testing", "utils", "version")
}


class Base:
    def run(self): ...


class Child(Base):
    def run(self): ...


class Storage(ROOMS["fileio"].BaseStorageBackend):
    """A storage whose files contain their own paths."""

    def __init__(self, end: str = "") -> None:
        self.end = end

    def get(self, filepath):
        return str(filepath).encode()

    def get_text(self, filepath, encoding="utf-8"):
        return f"{filepath}{self.end}"


class PetrelClient:
    """A stand-in for the client of ``petrel_client``, in memory."""

    def __init__(self, conf_path=None, enable_mc=True):
        self.files = {}

    def put(self, path, content):
        self.files[path] = content

    def Get(self, path):
        return self.files[path]

    def contains(self, path):
        return path in self.files

    def isdir(self, path):
        return any(file.startswith(path.rstrip("/") + "/") for file in self.files)

    def delete(self, path):
        del self.files[path]

    def list(self, path):
        parts = [file[len(path) :].partition("/") for file in self.files if file.startswith(path)]
        return sorted({name + slash for name, slash, _ in parts})

    def generate_presigned_url(self, *args):
        return " ".join(map(str, args))


class LmdbClient:
    def begin(self, write):
        return nullcontext(SimpleNamespace(get=lambda key: self.path + b" " + key))

    def close(self): ...

    def __init__(self, path, **kwargs):
        self.path = path.encode()


class MemcachedClient:
    @staticmethod
    def GetInstance(*files):
        return SimpleNamespace(Get=lambda path, buffer: buffer.append(f"{path} of {' '.join(files)}"))


CLIENTS = {
    "petrel_client": SimpleNamespace(client=SimpleNamespace(Client=PetrelClient)),
    "petrel_client.client": SimpleNamespace(Client=PetrelClient),
    "lmdb": SimpleNamespace(open=LmdbClient),
    "mc": SimpleNamespace(MemcachedClient=MemcachedClient, pyvector=list, ConvertBuffer="".join),
}


def names(**own: Any) -> dict[str, Any]:
    """Return what the expressions of the tables refer to."""
    tools = {"io": io, "json": json, "os": os, "np": np, "torch": torch, "nn": nn, "Path": Path, "pickle": pickle}
    return {
        **tools,
        "numbers": re.compile(r"\d[\d.]*"),
        "OrderedDict": OrderedDict,
        "Base": Base,
        "Child": Child,
        "Storage": Storage,
        "level": logging,
        **own,
    }


RESULTS = [
    # types and sequences
    ("utils.is_str('a'), utils.is_str(b'a')", (True, False)),
    ("utils.to_2tuple(3), utils.to_3tuple([1]), utils.to_ntuple(2)('ab'), utils.to_1tuple(None)", ((3, 3), [1], "ab", (None,))),
    ("list(utils.iter_cast('12', int)), utils.list_cast((1.5, 2), int), utils.tuple_cast([1], str)", ([1, 2], [1, 2], ("1",))),
    ("utils.is_seq_of('ab', str), utils.is_seq_of([1, 'a'], (int, str)), utils.is_seq_of((1,), int, seq_type=list)", (True, True, False)),
    ("utils.is_list_of([], int), utils.is_list_of((1,), int), utils.is_tuple_of((1, 2), int), utils.is_tuple_of((1, '2'), int)", (True, False, True, False)),
    ("utils.slice_list([1, 2, 3, 4], 2), utils.slice_list([1, 2, 3], [1, 2]), utils.concat_list([[1], [2, 3]])", ([[1, 2], [3, 4]], [[1], [2, 3]], [1, 2, 3])),
    ("utils.apply_to({'a': [1, 'x', (2,)]}, lambda v: isinstance(v, int), lambda v: v + 1)", {"a": [2, "x", (3,)]}),
    # functions, classes, modules
    ("utils.is_method_overridden('run', Base, Child), utils.is_method_overridden('run', Base, Base())", (True, False)),
    ("utils.has_method([], 'append'), utils.has_method([], 'missing'), utils.has_method(Path('a'), 'name')", (True, False, False)),
    ("utils.import_modules_from_strings('json') is json, utils.import_modules_from_strings(['json', 'io'])[1] is io", (True, True)),
    ("utils.import_modules_from_strings([]), utils.import_modules_from_strings(None)", (None, None)),
    ("utils.get_object_from_string('os.path.join') is os.path.join, utils.get_object_from_string('json') is json", (True, True)),
    ("utils.get_object_from_string('torch.nn.Linear') is nn.Linear, utils.get_object_from_string('a.b'), utils.get_object_from_string('os.missing')", (True, None, None)),
    ("utils.requires_package('json')(len)([1]), utils.requires_executable('python')(len)([1])", (1, 1)),
    ("utils.deprecated_function('1', '2', 'use y')(len)([1])", 1),
    # paths
    ("utils.is_filepath('a'), utils.is_filepath(Path('a')), utils.is_filepath(1)", (True, True, False)),
    ("utils.is_abs('/a'), utils.is_abs('a'), utils.is_abs('s3://a'), utils.is_abs('https://a'), utils.is_abs('ftp://a')", (True, False, True, True, False)),
    ("sorted(utils.scandir('data'))", ["a.txt", "b.JSON", "keys.txt", "latin.txt"]),
    ("sorted(utils.scandir(Path('data'), recursive=True))", [".hidden/e.txt", "a.txt", "b.JSON", "keys.txt", "latin.txt", "sub/c.json"]),
    ("sorted(utils.scandir('data', '.json', recursive=True)), sorted(utils.scandir('data', ('.JSON', '.txt'), case_sensitive=False))", (["sub/c.json"], ["a.txt", "b.JSON", "keys.txt", "latin.txt"])),
    ("utils.mkdir_or_exist(''), utils.mkdir_or_exist('new/folder'), utils.mkdir_or_exist('new/folder'), os.path.isdir('new/folder')", (None, None, None, True)),
    ("utils.check_file_exist('data/a.txt'), utils.fopen('data/a.txt').read(), utils.fopen(Path('data/a.txt'), 'rb').read()", (None, "one 1\ntwo 2 3\n", b"one 1\ntwo 2 3\n")),
    ("utils.symlink('data', 'link'), utils.symlink('data/sub', 'link'), os.listdir('link')", (None, None, ["c.json"])),
    ("utils.find_vcs_root('data/sub/c.json', ('a.txt',)) == os.path.abspath('data'), utils.find_vcs_root('data', ('no such file',))", (True, None)),
    # versions and packages
    ("utils.digit_version('2.0.1'), utils.digit_version('1.2'), utils.digit_version('1', length=2)", ((2, 0, 1, 0, 0, 0), (1, 2, 0, 0, 0, 0), (1, 0, 0, 0))),
    ("utils.digit_version('1.0.0rc2'), utils.digit_version('1.0a1'), utils.digit_version('1.0.0b0'), utils.digit_version('2.1.0+cu118')", ((1, 0, 0, 0, -1, 2), (1, 0, 0, 0, -3, 1), (1, 0, 0, 0, -2, 0), (2, 1, 0, 0, 0, 0))),
    ("utils.digit_version('1.0.dev3'), utils.digit_version('1.0.post4'), utils.digit_version('1.2.3.4.5')", ((1, 0, 0, 0, -4, 0), (1, 0, 0, 0, 1, 4), (1, 2, 3, 4, 0, 0))),
    ("utils.is_installed('torch'), utils.is_installed('no_such_package'), utils.is_installed('json')", (True, False, True)),
    ("utils.get_installed_path('torch') == os.path.dirname(torch.__file__), os.path.basename(utils.get_installed_path('PyYAML')), utils.package2module('PyYAML')", (True, "_yaml", "_yaml")),
    ("utils.get_git_hash(), utils.get_git_hash(digits=7), utils.call_command(['true'])", ("", "", None)),
    ("version.parse_version_info('1.2.0rc1'), version.parse_version_info('0.10.7'), version.version_info", ((1, 2, 0, "rc1"), (0, 10, 7), (0, 10, 7))),
    # timers and progress
    ("utils.check_time('t'), utils.check_time('t') >= 0", (0, True)),
    ("utils.Timer(start=False).is_running, utils.Timer().is_running, utils.Timer().since_start() >= 0", (False, True, True)),
    ("utils.track_progress(lambda n, k: n * k, [1, 2], k=3, file=io.StringIO()), utils.track_progress(str, (iter('ab'), 2), file=io.StringIO())", ([3, 6], ["a", "b"])),
    ("list(utils.track_iter_progress([1, 2], file=io.StringIO()))", [1, 2]),
    ("utils.track_progress_rich(max, [(1, 2), [4, 3]]), utils.track_progress_rich(lambda: 5, task_num=2), utils.track_progress_rich(abs, iter([-1]))", ([2, 4], [5, 5], [1])),
    ("utils.track_progress_rich(abs, [-3, -2, -1], nproc=2, chunksize=2), utils.track_parallel_progress(abs, [-1, -2], 2, file=io.StringIO())", ([3, 2, 1], [1, 2])),
    ("utils.ProgressBar(3, 10, file=(f := io.StringIO())).update(2), numbers.sub('#', f.getvalue())", (None, "[          ] #/#, elapsed: #s, ETA:\r[>>>>>>    ] #/#, # task/s, elapsed: #s, ETA:     #s")),
    ("utils.ProgressBar(start=False).completed, utils.ProgressBar(file=(f := io.StringIO())).update(), numbers.sub('#', f.getvalue())", (0, None, "completed: #, elapsed: #scompleted: #, elapsed: #s, # tasks/s")),
    # files
    ("fileio.list_from_file('data/a.txt'), fileio.list_from_file('data/a.txt', prefix='x', offset=1, max_num=1)", (["one 1", "two 2 3"], ["xtwo 2 3"])),
    ("fileio.dict_from_file('data/a.txt'), fileio.dict_from_file('data/keys.txt', key_type=int)", ({"one": "1", "two": ["2", "3"]}, {1: "cat"})),
    ("fileio.get('data/a.txt'), fileio.get_text(Path('data/a.txt')), fileio.get_text('data/latin.txt', 'latin-1')", (b"one 1\ntwo 2 3\n", "one 1\ntwo 2 3\n", "é")),
    ("fileio.put(b'x', 'n/x'), fileio.put_text('é', Path('n/m/y')), fileio.get('n/x'), fileio.get_text('n/m/y')", (None, None, b"x", "é")),
    ("fileio.exists(''), fileio.isdir(''), fileio.isfile('data/a.txt/'), fileio.isdir('data/'), fileio.exists('no'), fileio.isfile('data')", (False, False, False, True, False, False)),
    ("fileio.join_path('a', 'b'), fileio.join_path('./a', '/b'), fileio.join_path('a/', '')", ("a/b", "/b", "a/")),
    ("fileio.get_local_path(Path('data/a.txt')).__enter__(), fileio.LocalBackend().get_local_path(Path('a')).__enter__()", ("data/a.txt", Path("a"))),
    ("fileio.copyfile('data/a.txt', 'copy.txt'), fileio.copyfile_from_local('data/a.txt', 'data/sub'), fileio.copyfile_to_local('data/a.txt', 'c2.txt'), os.path.exists('data/sub/a.txt')", ("copy.txt", "data/sub/a.txt", "c2.txt", True)),
    ("fileio.copytree('data', 't1'), fileio.copytree_from_local('data', 't2'), fileio.copytree_to_local('data', 't3'), os.path.exists('t3/sub/c.json')", ("t1", "t2", "t3", True)),
    ("fileio.copytree('data', 't1'), fileio.remove('t1/a.txt'), fileio.rmtree('t1/sub'), sorted(os.listdir('t1'))", ("t1", None, None, [".hidden", ".x", "b.JSON", "keys.txt", "latin.txt"])),
    ("fileio.copy_if_symlink_fails('data', 'l1'), fileio.copy_if_symlink_fails('data/a.txt', 'data/b.JSON'), os.path.islink('l1')", (True, False, True)),
    ("sorted(fileio.list_dir_or_file('data')), sorted(fileio.list_dir_or_file('data', list_dir=False, suffix='.json', recursive=True))", ([".hidden", "a.txt", "b.JSON", "keys.txt", "latin.txt", "sub"], ["sub/c.json"])),
    ("sorted(fileio.list_dir_or_file('data', list_file=False, recursive=True)), list(fileio.list_dir_or_file('data/sub', backend_args={'backend': 'local'}))", ([".hidden", "sub"], ["c.json"])),
    ("fileio.load('data/sub/c.json'), fileio.load(io.StringIO('[1]'), file_format='json'), fileio.load(Path('data/sub/c.json'), backend_args=None)", ({"a": [1, None]}, [1], {"a": [1, None]})),
    ("fileio.dump({'b': {1}, 'a': np.arange(2), 'c': np.float32(0.5)}, file_format='json')", '{"b": [1], "a": [0, 1], "c": 0.5}'),
    ("fileio.dump({'b': [1], 'a': (2,)}, file_format='yaml'), fileio.load(io.StringIO('- !!python/tuple [1]\\n'), 'yml')", ("a: !!python/tuple\n- 2\nb:\n- 1\n", [(1,)])),
    ("fileio.dump([1, b'x'], 'new/f.pkl'), fileio.load('new/f.pkl'), fileio.dump(1, file_format='pkl') == pickle.dumps(1, 2)", (None, [1, b"x"], True)),
    ("fileio.dump([float('nan')], 'n/f.json', indent=2), fileio.get_text('n/f.json')", (None, "[\n  NaN\n]")),
    ("fileio.dump({'a': 1}, file := io.StringIO(), 'yaml'), file.getvalue()", (None, "a: 1\n")),
    ("fileio.JsonHandler().dump_to_path([1], 'h.json'), fileio.JsonHandler().load_from_path('h.json'), fileio.PickleHandler().dump_to_path({2}, 'h'), fileio.PickleHandler().load_from_path('h')", (None, [1], None, {2})),
    ("fileio.get_file_backend('a').name, fileio.get_file_backend('http://a').name, fileio.get_file_backend(backend_args={'backend': 'http'}).name, fileio.HardDiskBackend().name", ("LocalBackend", "HTTPBackend", "HTTPBackend", "HardDiskBackend")),
    ("fileio.get_file_backend('a', enable_singleton=True) is fileio.get_file_backend('b', enable_singleton=True), fileio.get_file_backend('a') is fileio.get_file_backend('a')", (True, False)),
    ("fileio.LocalBackend().allow_symlink, fileio.HTTPBackend().allow_symlink", (True, False)),
    ("fileio.register_backend('own', Storage, force=True, prefixes='own'), fileio.get('own://a'), fileio.get_text('b', backend_args={'backend': 'own', 'end': '!'}), fileio.list_from_file('own://c', backend_args=None)", (None, b"own://a", "b!", ["own://c"])),
    ("fileio.register_backend('new', prefixes=['x', 'y'], force=True)(Storage) is Storage, fileio.get('k:y://a')", (True, b"k:y://a")),
    ("fileio._parse_uri_prefix('a'), fileio._parse_uri_prefix('s3://b'), fileio._parse_uri_prefix('cluster:s3://b')", ("", "s3", "s3")),
    ("fileio.FileClient.parse_uri_prefix('a'), fileio.FileClient.parse_uri_prefix(Path('a')), fileio.FileClient.parse_uri_prefix('c:s3://b')", (None, None, "s3")),
    ("fileio.FileClient('disk') is fileio.FileClient('disk'), fileio.FileClient().name, fileio.FileClient(prefix='https').name, fileio.FileClient().get_text('data/a.txt')", (True, "HardDiskBackend", "HTTPBackend", "one 1\ntwo 2 3\n")),
    ("fileio.FileClient.infer_client({'backend': 'disk'}).exists('data'), fileio.FileClient.infer_client(uri='data').isdir('data'), fileio.FileClient().join_path('a', 'b')", (True, True, "a/b")),
    ("fileio.FileClient.register_backend('own', Storage, force=True, prefixes='own'), fileio.FileClient('own').get('z'), fileio.FileClient(prefix='own').get('z')", (None, b"z", b"z")),
    # Petrel, LMDB and Memcached, with stand-ins for their packages
    ("(p := fileio.PetrelBackend(path_mapping={'here/': 's3://b/'})).put(b'1', 'here/x'), p.put_text('2', 'petrel://b/d/y'), p.get('s3://b/x'), p.get_text('s3://b\\\\d/y'), p.exists('s3://b/d'), p.isfile('s3://b/d'), p.isdir('here/d')", (None, None, b"1", "2", True, False, True)),
    ("(p := fileio.PetrelBackend()).put(b'1', 's3://b/x'), p.put(b'2', 's3://b/d/y'), list(p.list_dir_or_file('s3://b', recursive=True)), list(p.list_dir_or_file('s3://b/', list_dir=False)), list(p.list_dir_or_file('petrel://b', list_file=False))", (None, None, ["d", "d/y", "x"], ["x"], ["d"])),
    ("(p := fileio.PetrelBackend()).put(b'1', 's3://b/x'), p.copyfile('s3://b/x', 's3://b/z'), p.put(b'2', 's3://b/d/y'), p.copyfile('s3://b/x', 's3://b/d'), p.copytree('s3://b', 's3://c'), sorted(p.list_dir_or_file('s3://c', False, recursive=True)), p.copy_if_symlink_fails('s3://b/d', 's3://e')", (None, "s3://b/z", None, "s3://b/d/x", "s3://c", ["d/x", "d/y", "x", "z"], False)),
    ("(p := fileio.PetrelBackend()).copytree_from_local('data/sub', 's3://b/t'), p.copyfile_from_local('data/a.txt', 's3://b/t'), p.copyfile_to_local('s3://b/t/c.json', 'data'), p.copytree_to_local('s3://b', 'down'), sorted(os.listdir('down/t'))", ("s3://b/t", "s3://b/t/a.txt", "data/c.json", "down", ["a.txt", "c.json"])),
    ("(p := fileio.PetrelBackend()).put(b'1', 's3://b/x'), p.get_local_path('s3://b/x').__enter__() == '', p.join_path('s3://b/', 'x', '/y'), p.remove('s3://b/x'), p.exists('s3://b/x'), p.generate_presigned_url('u')", (None, False, "s3://b/x/y", None, False, "u get_object 3600")),
    ("(p := fileio.PetrelBackend()).put(b'1', 's3://b/d/x'), p.rmtree('s3://b'), p.exists('s3://b/d/x'), fileio.exists('s3://a/b'), fileio.list_dir_or_file('petrel://b') is None", (None, None, False, False, False)),
    ("fileio.LmdbBackend('db').get('a'), fileio.MemcachedBackend('a', 'b').get(Path('c'))", (b"db a", "c of a b")),
    # PyTorch
    ("dl_utils.is_norm(nn.GroupNorm(1, 1)), dl_utils.is_norm(nn.BatchNorm2d(1), exclude=nn.BatchNorm2d), dl_utils.is_norm(nn.Linear(1, 1)), dl_utils.is_norm(nn.InstanceNorm1d(1), (nn.LayerNorm,))", (True, False, False, True)),
    ("dl_utils.has_batch_norm(nn.Sequential(nn.Sequential(nn.BatchNorm1d(1)))), dl_utils.has_batch_norm(nn.Linear(1, 1))", (True, False)),
    ("[grid.tolist() for grid in dl_utils.torch_meshgrid(torch.tensor([1, 2]), torch.tensor([3]))]", [[[1], [2]], [[3], [3]]]),
    ("[(image.tolist(), str(image.dtype)) for image in dl_utils.tensor2imgs(torch.arange(3.).reshape(1, 3, 1, 1), mean=(1, 2, 3), std=(1, 2, 4))]", [([[[11.0, 4.0, 1.0]]], "float32")]),
    ("dl_utils.tensor2imgs(torch.ones(1, 1, 1, 1), to_bgr=False)[0].tolist(), dl_utils.is_jit_tracing()", ([[[1.0]]], False)),
    ("dl_utils._BatchNorm.__name__, dl_utils._InstanceNorm.__name__, dl_utils._ConvNd.__name__, dl_utils._MaxPoolNd.__name__, issubclass(dl_utils.SyncBatchNorm, nn.SyncBatchNorm)", ("_BatchNorm", "_InstanceNorm", "_ConvNd", "_MaxPoolNd", True)),
    ("dl_utils.TORCH_VERSION == torch.__version__, dl_utils.is_rocm_pytorch(), dl_utils.get_build_config() == torch.__config__.show()", (True, False, True)),
    ("dl_utils.TimeCounter(tag='a') is dl_utils.TimeCounter(tag='a'), dl_utils.TimeCounter()(len)([1])", (True, 1)),
    ("list(dl_utils.collect_env())[:5], list(dl_utils.collect_env())[-1]", (["sys.platform", "Python", "CUDA available", "MUSA available", "numpy_random_seed"], "MMEngine")),
    ("device.is_npu_available(), device.is_mlu_available(), device.is_musa_available(), device.is_dipu_available(), device.is_npu_support_full_precision()", (False,) * 5),
    ("device.get_device() == device.DEVICE == ('cuda' if torch.cuda.is_available() else device.DEVICE), type(device.get_device())", (True, str)),
    # one process
    ("dist.get_dist_info(), dist.get_rank(), dist.get_world_size(), dist.is_main_process(), dist.is_distributed(), dist.get_local_rank(), dist.get_local_size()", ((0, 1), 0, 1, True, False, 0, 1)),
    ("dist.get_backend(), dist.get_local_group(), dist.barrier(), dist.get_comm_device().type, dist.infer_launcher()", (None, None, None, "cpu", "none")),
    ("dist.all_gather_object(1), dist.gather_object([1]), dist.all_gather('x'), dist.gather('x'), dist.master_only(len)([1])", ([1], [[1]], ["x"], ["x"], 1)),
    ("dist.all_reduce(t := torch.ones(1)), dist.broadcast(t), dist.all_reduce_dict({'a': t}), dist.all_reduce_params([t], bucket_size_mb=1), t.item(), dist.broadcast_object_list([1])", (None, None, None, None, 1.0, None)),
    ("dist.collect_results([1, 2, 3], 2), dist.collect_results([1, 2], 2, 'gpu'), dist.collect_results_cpu([1, 2], 1), dist.collect_results_gpu([1, 2], 1)", ([1, 2], [1, 2], [1], [1])),
    ("np.random.seed(3), dist.sync_random_seed(), dist.sync_random_seed()", (None, 218175338, 303761048)),
    ("dist.get_data_device({'a': [torch.ones(1)]}).type, dist.cast_data_device([{'a': torch.ones(1)}, (torch.zeros(2),)], torch.device('meta'))[1][0].device.type", ("cpu", "meta")),
    ("dist.cast_data_device((torch.ones(1),), torch.device('cpu'), out := (torch.zeros(1),)), out[0].item()", ((torch.ones(1),), 1.0)),
    # logging
    ("logging.MMFormatter(color=False).format(level.LogRecord('x', 30, 'p', 1, 'hello', None, None)).split(' - ')[1:]", ["x", "WARNING", "hello"]),
    ("logging.MMFormatter(color=False).format(level.LogRecord('x', 40, 'p', 1, 'hello', None, None, 'f')).split(' - ')[1:]", ["x", "ERROR", "p", "f", "1", "hello"]),
    ("[logging.FilterDuplicateWarning('a').filter(level.LogRecord('x', n, 'p', 1, 'm', None, None)) for n in (30, 20)], (f := logging.FilterDuplicateWarning()).name", ([True, True], "mmengine")),
    ("logging.HistoryBuffer([1, 2, 3], [1, 1, 2]).mean(), logging.HistoryBuffer([1., 5., 3.], [1, 1, 1]).mean(2), logging.HistoryBuffer([4, 2], [1, 1]).min(), logging.HistoryBuffer([4, 2], [1, 1]).statistics('max', 1)", (1.5, 4.0, 2, 2)),
    ("(l := logging.MMLogger.get_instance('rooms', logger_name='x', log_level='ERROR')) is logging.MMLogger.get_instance('rooms'), l.instance_name, l.name, logging.MMLogger.check_instance_created('rooms')", (True, "rooms", "x", True)),
    ("logging.print_log('a', logger='silent'), logging.print_log('a', logger='rooms', level=level.INFO)", (None, None)),
    ("(h := logging.MessageHub('a', {'loss': logging.HistoryBuffer([1.0], [1]), 'x': logging.HistoryBuffer([2.0], [1])}, {'task': 't', 'own': 1}, {'loss': True, 'task': True, 'x': False, 'own': False})).get_scalar('x').current(), h.get_info('task'), list(h.state_dict()['log_scalars']), list(h.state_dict()['runtime_info'])", (2.0, "t", ["loss"], ["task"])),
    # data elements
    ("structures.InstanceData(a=torch.arange(3))[1:].a.tolist(), len(structures.InstanceData(a=[1, 2])), structures.InstanceData.cat([structures.InstanceData(a=[1]), structures.InstanceData(a=[2])]).a", ([1, 2], 2, [1, 2])),
    ("structures.LabelData.label_to_onehot(torch.tensor([1]), 3).tolist(), structures.LabelData.onehot_to_label(torch.tensor([0, 1, 1])).tolist(), structures.PixelData(a=torch.ones(2, 3)).shape", ([0, 1, 0], [1, 2], (2, 3))),
    ("(e := structures.BaseDataElement(metainfo={'a': 1}, b=2)).pop('b'), e.get('b', 5), e.pop('c', None), e.all_keys(), e.metainfo, e.to_dict()", (2, 5, None, ["a"], {"a": 1}, {"a": 1})),
    # comparisons
    ("testing.assert_allclose([1.0], [1.0 + 1e-6]), testing.assert_allclose(torch.ones(1), torch.ones(1).double()), testing.assert_allclose(np.ones(1), 1.0 * np.ones(1), rtol=0, atol=0)", (None, None, None)),
    ("testing.assert_dict_contains_subset({'a': np.ones(2), 'b': 1}, {'a': np.ones(2)}), testing.assert_dict_contains_subset({'a': 1}, {'b': 1}), testing.assert_dict_contains_subset({'a': torch.ones(1)}, {'a': torch.zeros(1)})", (True, False, False)),
    ("testing.assert_attrs_equal(nn.Linear(1, 2), {'out_features': 2}), testing.assert_attrs_equal(1, {'x': 1}), testing.assert_dict_has_keys({'a': 1}, ['a', 'b']), testing.assert_keys_equal('ab', 'bba')", (True, False, False, True)),
    ("testing.assert_is_norm_layer(nn.LayerNorm(1)), testing.assert_params_all_zeros(nn.Linear(1, 1)), testing.assert_params_all_zeros(nn.BatchNorm1d(1).requires_grad_(False))", (True, False, False)),
]  # fmt: skip

ERRORS = [
    ("utils.iter_cast(1, int)", TypeError), ("utils.list_cast([1], 'int')", TypeError),
    ("utils.slice_list([1, 2, 3], 2)", AssertionError), ("utils.slice_list([1], [2])", ValueError), ("utils.slice_list([1], 'a')", TypeError),
    ("utils.import_modules_from_strings(['no_such_module'])", ImportError), ("utils.import_modules_from_strings(['io', 1])", TypeError),
    ("utils.requires_package('no_such_module')(len)([])", RuntimeError), ("utils.requires_executable('no_such_program')(len)([])", RuntimeError),
    ("utils.is_method_overridden('run', Base(), Child)", AssertionError), ("utils.fopen(1)", ValueError), ("utils.check_file_exist('data')", FileNotFoundError),
    ("utils.scandir(1)", TypeError), ("utils.scandir('data', 1)", TypeError), ("utils.symlink('data', 'data/a.txt', overwrite=False)", FileExistsError),
    ("utils.get_git_hash(digits='a')", TypeError), ("utils.digit_version('a.b')", ValueError), ("utils.call_command(['false'])", subprocess.CalledProcessError),
    ("utils.package2module('no_such_package')", Exception), ("utils.Timer(start=False).since_start()", ROOMS["utils"].TimerError),
    ("utils.track_progress(str, {1})", TypeError), ("utils.track_progress_rich(1, [1])", TypeError), ("utils.track_progress_rich(str, [])", ValueError),
    ("utils.track_progress_rich(str, [1], task_num=2)", ValueError), ("utils.track_progress_rich(str, [1], nproc=0)", ValueError), ("utils.track_progress_rich(str, 1)", TypeError),
    ("fileio.load('data/a.txt')", TypeError), ("fileio.load(1, 'json')", TypeError), ("fileio.load('no.json')", FileNotFoundError), ("fileio.dump(1)", ValueError),
    ("fileio.dump(1, 1, 'json')", TypeError), ("fileio.dump(object(), file_format='json')", TypeError), ("fileio.load('a.json', file_client_args={}, backend_args={})", ValueError),
    ("fileio.get_file_backend()", ValueError), ("fileio.get_file_backend('x1://a')", KeyError), ("fileio.get_file_backend(backend_args={'backend': 'x1'})", KeyError),
    ("fileio.remove('no')", FileNotFoundError), ("fileio.remove('data')", IsADirectoryError), ("fileio.get('data')", IsADirectoryError), ("fileio.copytree('data', 'data/sub')", FileExistsError),
    ("list(fileio.list_dir_or_file('data', suffix='.txt'))", TypeError), ("list(fileio.list_dir_or_file('data', list_dir=False, suffix=1))", TypeError),
    ("fileio.register_backend('local', Storage)", ValueError), ("fileio.register_backend(1, Storage)", TypeError), ("fileio.register_backend('q', str)", TypeError), ("fileio.register_backend('q', Storage, prefixes='http')", ValueError),
    ("fileio.FileClient('no')", ValueError), ("fileio.FileClient(prefix='no')", ValueError), ("fileio.FileClient.register_backend('disk', Storage)", KeyError), ("fileio.FileClient.infer_client()", AssertionError),
    ("fileio.register_handler('x')(str)", TypeError), ("fileio.dict_from_file('data/latin.txt', encoding='latin-1')", AssertionError),
    ("fileio.LmdbBackend('db').get_text('a')", NotImplementedError), ("fileio.MemcachedBackend('a', 'b').get_text('c')", NotImplementedError),
    ("fileio.PetrelBackend().remove('s3://b')", FileNotFoundError), ("(p := fileio.PetrelBackend()).put(b'', 's3://a/b'), p.remove('s3://a')", IsADirectoryError), ("(p := fileio.PetrelBackend()).put(b'', 's3://a/b'), p.copyfile('s3://a/b', 's3://a/b')", OSError),
    ("(p := fileio.PetrelBackend()).put(b'', 's3://a/b'), p.copytree('s3://a', 's3://a')", FileExistsError), ("fileio.PetrelBackend().list_dir_or_file('s3://a', suffix='.x')", TypeError),
    ("dl_utils.is_norm(nn.Linear(1, 1), exclude='a')", TypeError), ("dl_utils.tensor2imgs(torch.ones(1, 2, 1, 1))", AssertionError), ("dl_utils.tensor2imgs(torch.ones(1, 1, 1, 1))", AssertionError),
    ("device.get_max_musa_memory()", Exception),
    ("dl_utils.TimeCounter(warmup_interval=0)", AssertionError), ("dl_utils.TimeCounter(tag=None).__enter__()", AssertionError),
    ("dist.init_dist('no')", ValueError), ("dist.get_default_group()", ValueError), ("dist.collect_results([], 0, 'no')", NotImplementedError),
    ("dist.get_data_device([])", ValueError), ("dist.get_data_device('a')", TypeError), ("dist.get_data_device([torch.ones(1), torch.ones(1, device='meta')])", ValueError),
    ("dist.cast_data_device([], torch.device('cpu'))", ValueError), ("dist.cast_data_device(1, torch.device('cpu'))", TypeError), ("dist.cast_data_device([torch.ones(1)], torch.device('cpu'), (torch.ones(1),))", TypeError),
    ("logging.MMFormatter(color=False, blink=True)", AssertionError), ("logging.print_log('a', logger='never created')", ValueError), ("logging.print_log('a', logger=1)", TypeError),
    ("testing.assert_allclose([1.0], [1.001])", AssertionError), ("testing.assert_allclose([1.0], [1.0, 1.0])", AssertionError), ("testing.assert_allclose(float('nan'), float('nan'), equal_nan=False)", AssertionError),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_folder(tmp_path, monkeypatch.chdir)


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in CLIENTS.items():
        monkeypatch.setitem(sys.modules, name, module)


def make_folder(folder: Path, enter: Any) -> Path:
    """Create the files of the tables and enter their folder."""
    files = {
        "a.txt": "one 1\ntwo 2 3\n",
        "b.JSON": "1",
        "sub/c.json": '{"a": [1, null]}',
        ".x": "",
        ".hidden/e.txt": "",
    }
    for name, text in files.items():
        file = folder / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "data/latin.txt").write_bytes("é".encode("latin-1"))
    (folder / "data/keys.txt").write_text("1 cat\n")
    enter(folder)
    return folder


@pytest.mark.parametrize("row", RESULTS, ids=lambda row: row[0][:60])
def test_a_helper_returns_what_mmengine_returns(row: tuple[str, Any], clients: None):
    expression, expected = row
    result = eval(expression, names(**ROOMS))
    assert result == expected and type(result) is type(expected)


@pytest.mark.parametrize("row", ERRORS, ids=lambda row: row[0][:60])
def test_a_helper_raises_what_mmengine_raises(row: tuple[str, type], clients: None):
    with pytest.raises(row[1]):
        eval(row[0], names(**ROOMS))


@pytest.mark.parametrize("room", ["device", "dist", "logging", "structures"])
def test_objects_of_the_engine_are_the_same_objects(room: str):
    from trainwright import engine
    from trainwright.engine import distributed

    shared = {
        "device": {}, "dist": {name: getattr(distributed, name) for name in ("all_reduce", "get_rank", "barrier")},
        "logging": {name: getattr(engine, name) for name in ("MMLogger", "MessageHub", "HistoryBuffer", "print_log")},
        "structures": {name: getattr(engine, name) for name in ("BaseDataElement", "InstanceData", "PixelData")},
    }  # fmt: skip
    assert all(getattr(ROOMS[room], name) is value for name, value in shared[room].items())


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_a_pickle_of_a_library_holds_data_elements_and_cannot_run_code():
    from trainwright.engine import InstanceData

    fileio = ROOMS["fileio"]
    fileio.dump([InstanceData(boxes=torch.ones(2, 4), metainfo={"a": 1}), {"x": np.arange(2)}], "x.pkl")
    element, arrays = fileio.load("x.pkl")
    assert element.boxes.shape == (2, 4) and element.a == 1 and arrays["x"].tolist() == [0, 1]

    fileio.dump(Attack(), "x.pkl")
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir, which could run code.*trusted=True.*register_handler"):
        fileio.load("x.pkl")
    assert not Path("attacked").exists()
    fileio.load("x.pkl", trusted=True)
    assert Path("attacked").exists()


@pytest.mark.parametrize(
    "content", [b"cmmdet.structures.os\nmkdir\n(Vattacked\ntR.", b"cmmdet.structures\nos.mkdir\n(Vattacked\ntR."]
)
def test_a_pickle_cannot_reach_what_a_module_of_data_elements_imports(content: bytes, monkeypatch: pytest.MonkeyPatch):
    for name in ("mmdet", "mmdet.structures", "mmdet.structures.os"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(os=os, mkdir=os.mkdir, __path__=[]))
    with pytest.raises(pickle.UnpicklingError, match="could run code"):
        ROOMS["fileio"].load(io.BytesIO(content), "pkl")
    assert not Path("attacked").exists()


def test_a_pickle_cannot_import_any_module_of_a_library(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "script.py").write_text("import os\nos.mkdir('attacked')\n")
    monkeypatch.setitem(sys.modules, "mmdet", SimpleNamespace(__path__=[str(folder)]))
    with pytest.raises(pickle.UnpicklingError, match="could run code"):
        ROOMS["fileio"].load(io.BytesIO(b"cmmdet.script\nmain\n."), "pkl")
    assert not Path("attacked").exists()


def test_a_user_lets_libraries_load_pickles_of_any_class(monkeypatch: pytest.MonkeyPatch):
    fileio = ROOMS["fileio"]
    monkeypatch.setattr(fileio, "file_handlers", dict(fileio.file_handlers))
    fileio.dump(Path, "x.pkl")
    fileio.register_handler(["pkl", "pickle"], trusted=True)(fileio.PickleHandler)
    fileio.dump(Child(), "x.pkl")
    assert type(fileio.load("x.pkl")) is Child


def test_yaml_cannot_run_code():
    import yaml

    with pytest.raises(yaml.YAMLError):
        ROOMS["fileio"].load(io.StringIO("!!python/object/apply:os.mkdir [attacked]"), "yaml")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("function", ["load", "list_from_file", "dict_from_file"])
def test_file_client_args_are_accepted_with_a_warning(function: str):
    Path("x.json").write_text("[1] 2")
    Path("x.txt").write_text("1 2")
    file = "data/sub/c.json" if function == "load" else "x.txt"
    with pytest.warns(DeprecationWarning, match="backend_args"):
        assert getattr(ROOMS["fileio"], function)(file, file_client_args={"backend": "disk"})


@pytest.mark.parametrize(
    ("backend", "arguments"), [("LmdbBackend", ("db",)), ("MemcachedBackend", ("a", "b")), ("PetrelBackend", ())]
)
def test_the_message_names_the_package_that_a_backend_lacks(
    backend: str, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
):
    for package in ("lmdb", "mc", "petrel_client"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{backend} needs the package (lmdb|mc|petrel_client), not installed: "):
        getattr(ROOMS["fileio"], backend)(*arguments)


def test_http_backend_removes_its_temporary_file(monkeypatch: pytest.MonkeyPatch):
    backend = ROOMS["fileio"].HTTPBackend()
    url = Path("data/a.txt").absolute().as_uri()
    with backend.get_local_path(url) as path:
        assert Path(path).read_text() == backend.get_text(url) == "one 1\ntwo 2 3\n"
    assert not Path(path).exists()


def test_old_names_of_arguments_are_accepted_with_a_warning():
    @ROOMS["utils"].deprecated_api_warning({"old": "new"}, cls_name="Cls")
    def function(new, other=0):
        return new, other

    with pytest.warns(DeprecationWarning, match=r"Cls.function: 'old' is now called 'new'"):
        assert function(old=1, other=2) == (1, 2)
    with pytest.warns(DeprecationWarning), pytest.raises(AssertionError):
        function(old=1, new=2)


def test_managers_keep_an_instance_for_each_name():
    ManagerMixin = ROOMS["utils"].ManagerMixin

    class One(ManagerMixin):
        def __init__(self, name, size=0):
            super().__init__(name)
            self.size = size

    class Two(One): ...

    with pytest.raises(RuntimeError):
        One.get_current_instance()
    first, second = One.get_instance("a", size=3), One.get_instance("b")
    assert One.get_instance("a") is first and first.size == 3 and first.instance_name == "a"
    assert (
        One.get_current_instance() is second and One.check_instance_created("b") and not Two.check_instance_created("a")
    )
    with pytest.warns(UserWarning, match="exists already: ignored size"):
        One.get_instance("a", size=1)
    with pytest.raises(AssertionError):
        One("")
    with pytest.raises(AssertionError):
        type(ManagerMixin)("Bad", (), {"__init__": lambda self: None})


def test_a_time_counter_prints_the_mean_after_the_warm_up(capsys: pytest.CaptureFixture[str]):
    counter = ROOMS["dl_utils"].TimeCounter(log_interval=2, warmup_interval=2, tag="rooms")
    for _ in range(4):
        with counter:
            pass
    lines = re.sub(r"[\d.]+ ms", "# ms", capsys.readouterr().out).splitlines()
    assert lines == [f"[rooms]-time per run averaged in the past {runs} runs: # ms" for runs in (2, 4)]


def test_a_timer_prints_the_seconds_of_a_block(capsys: pytest.CaptureFixture[str]):
    with ROOMS["utils"].Timer(print_tmpl="it took {:.0f} s"):
        pass
    assert capsys.readouterr().out == "it took 0 s\n"


def test_the_processes_are_set_up_as_in_mmengine(monkeypatch: pytest.MonkeyPatch):
    methods = []
    monkeypatch.setattr(multiprocessing, "set_start_method", lambda method, force: methods.append((method, force)))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "fork")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MKL_NUM_THREADS", "9")
    monkeypatch.delenv("MKL_NUM_THREADS")
    with pytest.warns(UserWarning) as warned:
        ROOMS["dl_utils"].set_multi_processing("spawn", distributed=True)
    assert methods == [("spawn", True)] and len(warned) == 2
    assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["MKL_NUM_THREADS"] == "1"


def test_a_url_is_downloaded_once_and_loaded_safely():
    from trainwright.engine import CheckpointError

    dl_utils, url = ROOMS["dl_utils"], Path("weights.pth").absolute().as_uri()
    torch.save({"a": torch.ones(1)}, "weights.pth")
    assert dl_utils.load_url(url, model_dir="cache", progress=False)["a"] == 1
    torch.save({"a": Child()}, "weights.pth")
    assert dl_utils.load_url(url, model_dir="cache", progress=False)["a"] == 1
    with pytest.raises(CheckpointError, match="could execute code"):
        dl_utils.load_url(url, model_dir="cache", progress=False, file_name="new.pth")


def test_other_ways_to_start_processes_name_the_alternative():
    with pytest.raises(ValueError, match=r"'deepspeed' is not supported: use strategy=dict\(type='FSDP2'\)"):
        ROOMS["dist"].init_dist("pytorch", init_backend="deepspeed")


def test_a_runner_test_case_trains_its_toys():
    RunnerTestCase = ROOMS["testing"].RunnerTestCase

    class Case(RunnerTestCase):
        def test_epochs(self):
            runner = self.build_runner(self.epoch_based_cfg)
            runner.train()
            assert runner.iter == 8 and runner.test() == {"acc": 1}

        def test_iterations(self):
            self.build_runner(self.iter_based_cfg).train()
            assert Path(self.temp_dir.name, "iter_12.pth").exists()
            self.clear_work_dir()
            assert not list(Path(self.temp_dir.name).iterdir())

    for name in ("test_epochs", "test_iterations"):
        result = Case(name).run()
        assert result is not None and not result.errors and not result.failures, result
    assert "ToyModel" not in ROOMS["testing"].MODELS.module_dict


def test_the_schedules_of_a_config_are_shown_without_its_model():
    testing, dl_utils = ROOMS["testing"], ROOMS["dl_utils"]
    case = testing.RunnerTestCase()
    case.setUp()
    case.epoch_based_cfg.param_scheduler = {"type": "LinearLR", "start_factor": 0.1, "end": 2}
    dl_utils.fake_run(case.epoch_based_cfg)
    case.tearDown()
    assert list(Path("temp_dir").glob("events.*"))


def test_a_test_runs_in_several_processes():
    class Processes(ROOMS["testing"].MultiProcessTestCase):
        def setUp(self):
            super().setUp()
            self._start_processes(multiprocessing.get_context("fork").Process)

        def prepare_subprocess(self):
            os.environ["PREPARED"] = "1"

        def test_passes(self):
            assert self.rank in (0, 1) and self.world_size == 2 and os.environ["PREPARED"] == "1"

        def test_fails(self):
            assert self.is_master, "not the master"

        def test_skips(self):
            self.skipTest("not today")

    passed, failed, skipped = (Processes(name).run() for name in ("test_passes", "test_fails", "test_skips"))
    assert passed.wasSuccessful() and not passed.skipped
    assert "process 1 exited with status 10" in failed.errors[0][1] and "not the master" in failed.errors[0][1]
    assert len(skipped.skipped) == 1 and skipped.wasSuccessful()


@pytest.fixture
def library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of an installed library with a config and a model."""
    files = {
        "toylib/__init__.py": "",
        "toylib/utils.py": "from trainwright.engine import MODELS\nfrom torch import nn\n\ndef register_all_modules(init_default_scope=True):\n"
        "    assert not init_default_scope\n    MODELS.register_module('ToyLinear', force=True, module=nn.Linear)\n",
        "toylib/.mim/configs/toy/net.py": "model = dict(type='ToyLinear', in_features=2)\n",
        "toylib/.mim/configs/toy/other.py": "a = 1\n",
        "toylib/.mim/model-index.yml": "Import:\n- configs/toy/metafile.yml\n",
        "toylib/.mim/configs/toy/metafile.yml": "Models:\n- Name: net\n  Config: configs/toy/net.py\n  Weights: net.pth\n- Name: bare\n",
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(folder)
    for module in ("toylib", "toylib.utils"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    return "toylib"


def test_models_of_a_library_are_built_by_the_names_of_their_configs(library: str):
    from trainwright.compat.mmengine import hub
    from trainwright.engine import ConfigFileError

    assert hub.get_config("toylib::toy/other.py").a == 1
    assert hub.get_config("toylib::toy/net.py", pretrained=True).model_path == "net.pth"
    with pytest.raises(ValueError, match=r"toylib does not list weights for toy/other.py"):
        hub.get_config("toylib::toy/other.py", pretrained=True)
    with pytest.raises(ConfigFileError, match="no_such_library"):
        hub.get_config("no_such_library::a.py")

    weights = nn.Linear(2, 3).state_dict()
    torch.save({"state_dict": weights}, "net.pth")
    model = hub.get_model("toylib::toy/net.py", pretrained=True, out_features=3)
    assert torch.equal(model.weight, weights["weight"]) and model._is_init
    assert hub.get_model("toylib::toy/net.py", out_features=4).out_features == 4


def test_a_function_with_the_name_of_its_module_comes_first():
    package = finder._Module("mmengine.utils.dl_utils")
    package.collect_env = finder._Module("mmengine.utils.dl_utils.collect_env")  # as the import system does
    assert package.collect_env is ROOMS["dl_utils"].collect_env


def test_a_module_of_mmengine_does_not_show_what_its_counterpart_imports():
    module = finder._Module("mmengine.utils")
    assert module.is_str is ROOMS["utils"].is_str
    assert not hasattr(module, "subprocess") and not hasattr(module, "np")


def test_the_module_of_the_version_has_it():
    module = finder._Module("mmengine.version")
    finder.MMEngineFinder().exec_module(module)
    assert module.__version__ == "0.10.7" and module.version_info == (0, 10, 7)
