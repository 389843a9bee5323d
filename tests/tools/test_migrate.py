from pathlib import Path

import pytest

from trainwright.tools.cli import main

OLD, NEW = b"from mmengine.hooks import Hook\n", b"from trainwright.engine import Hook\n"


def test_a_project_is_rewritten_only_with_write(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "a.py": (OLD, NEW),
        "sub/crlf.py": (OLD.replace(b"\n", b"\r\n"), NEW.replace(b"\n", b"\r\n")),
        "bom.py": (b"\xef\xbb\xbf" + OLD, b"\xef\xbb\xbf" + NEW),
        "latin.py": (b"# coding: latin-1\ns = '\xe9'\n" + OLD, b"# coding: latin-1\ns = '\xe9'\n" + NEW),
        "config.yaml": (b"type: mmengine.hooks.EMAHook\n", b"type: trainwright.hooks.EMAHook\n"),
        ".venv/x.py": (OLD, OLD),
        "env/lib/site-packages/x.py": (OLD, OLD),
    }
    for name, (old, _) in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(old)
    Path("a.py").chmod(0o755)
    Path("link.py").symlink_to("a.py")
    assert main(["migrate", "."]) == 0
    printed = capsys.readouterr().out
    assert "+from trainwright.engine import Hook" in printed
    assert "5 files to change" in printed
    assert {name: Path(name).read_bytes() for name in files} == {name: old for name, (old, _) in files.items()}

    assert main(["migrate", ".", "--write"]) == 0
    assert {name: Path(name).read_bytes() for name in files} == {name: new for name, (_, new) in files.items()}
    assert Path("link.py").is_symlink()
    assert Path("a.py").stat().st_mode & 0o777 == 0o755


def test_places_to_look_at_are_listed_with_file_and_line(
    in_tmp: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "x.py"
    outside.write_bytes(OLD)
    Path("link.py").symlink_to(outside)
    Path("gone.py").symlink_to("nowhere.py")
    Path("unknown.py").write_text("\nfrom mmengine.hooks import Nope\n")
    Path("python2.py").write_text("x = 1\nprint 1\n")
    Path("latin.py").write_bytes(b"s = '\xe9'\n")
    Path("requirements.txt").write_text("torch\nmmengine>=0.7\n")
    Path("pyproject.toml").write_text("[project]\ndependencies = ['mmengine']\n")
    Path("readme.txt").write_text("This uses mmengine.\n")
    Path("notebook.ipynb").write_text('{\n"source": "import mmengine"}\n')
    Path("late.py").write_text("import mmdet\n")
    assert main(["migrate", ".", "--write"]) == 1
    printed = capsys.readouterr()
    places = {":".join(line.split(":")[:2]) for line in printed.err.splitlines()}
    assert places == {
        "link.py:1", "unknown.py:2", "python2.py:2", "latin.py:1", "requirements.txt:2", "pyproject.toml:2",
        "notebook.ipynb:2",
    }  # fmt: skip
    assert "mmdet is imported at late.py:1" in printed.out
    assert "7 places to look at" in printed.out
    assert outside.read_bytes() == OLD


@pytest.mark.parametrize("fault", ["read-only", "full disk"])
def test_either_all_files_are_written_or_none(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    for name in ("a.py", "b.py"):
        Path(name).write_bytes(OLD)
    if fault == "read-only":
        Path("b.py").chmod(0o444)
    else:
        write = Path.write_bytes

        def fail(path: Path, data: bytes) -> int:
            if "b.py" in path.name:
                write(path, data[:5])
                raise OSError(28, "no space left", str(path))
            return write(path, data)

        monkeypatch.setattr(Path, "write_bytes", fail)
    assert main(["migrate", ".", "--write"]) == 2
    assert "b.py" in capsys.readouterr().err
    assert Path("a.py").read_bytes() == Path("b.py").read_bytes() == OLD
    assert sorted(map(str, Path().iterdir())) == ["a.py", "b.py"]


def test_a_missing_path_is_an_error(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
