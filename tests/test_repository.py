"""The house itself: what README promises, what is pinned, the one public address, what a wheel holds."""

import ast
import csv
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "tools"))

import address  # noqa: E402
import mathjax  # noqa: E402


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


@pytest.fixture(scope="module")
def tracked():
    """Committed text files, and files about to be."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [ROOT / line for line in done.stdout.splitlines()]
    binary = {".png", ".mp4", ".webm", ".safetensors", ".npz"}
    return [path for path in paths if path.is_file() and path.suffix not in binary]


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


class TestPins:
    def test_every_constraint_is_exact_and_named_once(self):
        lines = (ROOT / "constraints.txt").read_text().splitlines()
        lines = [line for line in lines if not line.startswith("#")]
        assert all(re.fullmatch(r"[a-z0-9-]+==[A-Za-z0-9.]+", line) for line in lines)
        names = [line.split("==")[0] for line in lines]
        assert len(set(names)) == len(names)

    def test_installed_versions_are_the_pinned_ones(self, pins):
        installed = {canonical(d.name): d.version.split("+")[0] for d in importlib.metadata.distributions()}
        ours = {name: version for name, version in installed.items() if name in pins}
        assert {"torch", "numpy", "jupyter-book", "nbval", "sphinx-book-theme"} <= set(ours)
        assert ours == {name: pins[name] for name in ours}

    def test_everything_the_extras_pull_in_is_pinned(self, pins):
        """Walks the requirements of minirsa and its extras as pip would."""
        from packaging.requirements import Requirement

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        extras = project["optional-dependencies"]
        todo = [Requirement(line) for line in project["dependencies"] + extras["book"] + extras["test"]]
        seen, unpinned = set(), set()
        while todo:
            requirement = todo.pop()
            name = canonical(requirement.name)
            key = (name, frozenset(requirement.extras))
            if key in seen:
                continue
            seen.add(key)
            # Torch's own CUDA packages are pinned by torch, and exist only beside its CUDA build.
            if re.match(r"nvidia|cuda|triton", name):
                continue
            if name not in pins:
                unpinned.add(name)
            try:
                lines = importlib.metadata.requires(requirement.name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            for line in lines:
                inner = Requirement(line)
                environments = [{"extra": extra} for extra in requirement.extras or {""}]
                if inner.marker is None or any(inner.marker.evaluate(environment) for environment in environments):
                    todo.append(inner)
        assert not unpinned

    def test_environment_yml_agrees_with_the_constraints(self, pins):
        environment = yaml.safe_load((ROOT / "environment.yml").read_text())
        assert environment["name"] == "minirsa"
        (python,) = [line for line in environment["dependencies"] if str(line).startswith("python=")]
        assert python.split("=")[1] in ("3.11", "3.12", "3.13")
        (inner,) = [line["pip"] for line in environment["dependencies"] if isinstance(line, dict)]
        assert "--constraint constraints.txt" in inner
        (editable,) = [line for line in inner if line.startswith("--editable")]
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.search(r"\[(.*)\]", editable).group(1).split(",")) <= set(extras)
        repeated = [line.split("==") for line in inner if "==" in line]
        assert dict(repeated).keys() >= {"torch", "torchvision", "jupyter-book"}
        assert all(pins[canonical(name)] == version for name, version in repeated)

    def test_pyproject_pins_nothing_upwards_but_the_book_tools(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert not [line for line in project["dependencies"] if re.search(r"<|==|~=", line.split(";")[0])]
        assert project["requires-python"] == ">=3.11"
        assert "jupyter-book<2" in project["optional-dependencies"]["book"]


class TestAddress:
    def test_every_generated_text_is_current(self, capsys):
        stale = address.main(["--check"])
        assert stale == 0, capsys.readouterr().out

    def test_the_address_is_typed_in_one_place(self, tracked):
        """Whatever holds the address is _config.yml, or is written by address.py, and checked just above."""
        needle = address.url().removeprefix("https://github.com/")
        holders = {path for path in tracked if needle in path.read_text(encoding="utf-8", errors="ignore")}
        generated = set(address.wanted())
        assert ROOT / "_config.yml" in holders
        assert holders - generated <= {ROOT / "_config.yml"}
        assert (ROOT / "_config.yml").read_text().count(needle) == 1

    def test_a_placeholder_can_belong_to_nobody(self):
        """GitHub allows letters, digits and hyphens in an account's name, nothing else."""
        assert not re.fullmatch(r"[A-Za-z0-9-]+", address.PLACEHOLDER_OWNER)

    def test_install_cell_follows_the_address(self, monkeypatch):
        monkeypatch.setattr(address, "url", lambda: "https://github.com/someone/minirsa")
        source = address.install_source()
        assert f'"https://github.com/someone/minirsa", "v{address.release()}"' in source
        assert "MINIRSA_PROFILE" in source
        assert not re.search(r"pip.*(torch|numpy)", source)
        monkeypatch.setattr(address, "url", lambda: f"https://github.com/{address.PLACEHOLDER_OWNER}/minirsa")
        refusal = address.install_source()
        assert "does not know its public address" in refusal
        assert "pip" not in refusal
        for text in (source, refusal):
            ast.parse(text)
            assert max(map(len, text.splitlines())) <= 110

    def test_install_cell_refuses_in_colab_while_the_address_is_not_set(self, monkeypatch):
        monkeypatch.setattr(address, "url", lambda: f"https://github.com/{address.PLACEHOLDER_OWNER}/minirsa")
        monkeypatch.setitem(sys.modules, "google.colab", object())
        with pytest.raises(RuntimeError, match="public address"):
            exec(address.install_source(), {})

    def test_install_cell_installs_and_moves_in_colab(self, monkeypatch, tmp_path):
        calls = []
        monkeypatch.setattr(address, "url", lambda: "https://github.com/someone/minirsa")
        monkeypatch.setitem(sys.modules, "google.colab", object())
        monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))
        monkeypatch.setenv("MINIRSA_PROFILE", "ci")
        monkeypatch.chdir(tmp_path)
        home = tmp_path / "home"
        source = address.install_source().replace("/content/book-of-minirsa", str(home))
        monkeypatch.setattr(os, "chdir", lambda folder: calls.append(folder))
        exec(source, {})
        clone, install, folder = calls
        assert clone[:2] == ["git", "clone"]
        assert clone[-2:] == ["https://github.com/someone/minirsa", str(home)]
        assert install[1:4] == ["-m", "pip", "install"]
        assert install[-1] == str(home)
        assert folder == home / "book"

    def test_release_is_the_version_everywhere(self):
        import minirsa

        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert minirsa.__version__ == project["version"] == str(citation["version"]) == address.release()
        assert citation["repository-code"] == address.url()


# Each command of README, and what tests it. A command without a line here fails a test.
COVERED = {
    "make book": "tests/browser builds the site with the same tool; .ci/run calls make site",
    "make test": "you are reading its output",
    "export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu": "a setting for pip, no program of ours",
    "conda env create -f environment.yml": "test_environment_yml_agrees_with_the_constraints",
    "minirsa predict data_samples/moving_something_down.mp4": "test_predict_names_the_motion",
    "minirsa train --recipe motion-ci": "test_training_commands_work_on_a_smaller_recipe",
    "minirsa evaluate runs/motion-ci": "test_training_commands_work_on_a_smaller_recipe",
}


class TestReadme:
    def test_every_command_is_covered(self, readme):
        commands = [line for block in code_blocks(readme, "bash") for line in block.splitlines()]
        clone = code_blocks(address.readme_clone(), "bash")[0].splitlines()
        assert len(commands) > len(clone)
        assert set(commands) - set(clone) == set(COVERED)

    def test_every_make_target_it_names_exists(self, readme):
        targets = set(re.findall(r"`make ([a-z]+)", readme)) | set(re.findall(r"^make ([a-z]+)", readme, re.MULTILINE))
        assert {"book", "test", "serve", "lint", "execute", "bench", "samples", "lab"} <= targets
        for target in targets:
            plan = subprocess.run(
                ["make", "--dry-run", target, "CHAPTER=13"], cwd=ROOT, capture_output=True, text=True, check=False
            )
            assert plan.returncode == 0, plan.stderr

    def test_example_prints_what_the_text_says(self, readme):
        (example,) = code_blocks(readme, "python")
        assert len([line for line in example.splitlines() if line.strip()]) <= 10
        (printed,) = re.findall(r"It prints `(.*?)`", readme)
        done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == printed, done.stderr

    def test_predict_names_the_motion(self, readme):
        (command,) = [line for block in code_blocks(readme, "bash") for line in block.splitlines() if "predict" in line]
        program = Path(sys.executable).with_name("minirsa")
        done = subprocess.run(
            [str(program), *command.split()[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "moving something down" in done.stdout.splitlines()[0]

    def test_training_commands_work_on_a_smaller_recipe(self, tmp_path, monkeypatch, capsys):
        """As README has them, but for a few overrides: the recipe itself takes minutes."""
        from minirsa import cli

        monkeypatch.chdir(tmp_path)
        train, evaluate = (command.split()[1:] for command in COVERED if "motion-ci" in command)
        smaller = ["size=12", "frames=4", "epoch_clips=32", "validation_clips=12", "epochs=2", "batch_size=8"]
        smaller += ["model_options.widths=[4, 8, 8]", "model_options.transform=conv3d"]
        assert cli.main([*train, *(word for value in smaller for word in ("--set", value))]) == 0
        assert cli.main(evaluate) == 0
        assert "motion validation: 12 clips; 4 frames x 1 clip x 1 crop" in capsys.readouterr().out

    def test_data_samples_command_draws_into_the_folder_named(self, readme, tmp_path, monkeypatch, capsys):
        """That the clips come out the same is tests/data's business, and takes a minute."""
        from minirsa import cli
        from minirsa.data import samples

        assert "`minirsa data samples clips`" in readme
        monkeypatch.setattr(samples, "write_samples", lambda folder: [Path(folder) / "drawn.mp4"])
        assert not cli.main(["data", "samples", str(tmp_path)])
        assert str(tmp_path / "drawn.mp4") in capsys.readouterr().out

    def test_every_path_and_link_exists(self, readme):
        links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith("http")]
        folders = re.findall(r"`([a-z_./]+/|[a-z_/]+\.(?:py|txt|yml))`", readme)
        assert len(links) >= 4
        assert len(folders) >= 8
        assert not [path for path in [*links, *folders] if not (ROOT / path).exists()]


class TestFiles:
    def test_licences(self):
        apache = (ROOT / "LICENSE").read_text()
        assert "Apache License" in apache
        assert "Version 2.0, January 2004" in apache
        assert "END OF TERMS AND CONDITIONS" in apache
        assert "creativecommons.org/licenses/by/4.0" in (ROOT / "LICENSE-CC-BY.md").read_text()
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert project["license"] == citation["license"] == "Apache-2.0"

    def test_citation_has_what_the_format_requires(self):
        citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        assert {"cff-version", "message", "title", "authors"} <= set(citation)
        assert citation["references"][0]["authors"][0]["family-names"] == "Kim"

    def test_no_path_or_host_of_a_machine_is_committed(self, tracked):
        forbidden = re.compile(r"/(?:root|home/\w+|work|opt|tmp)/[\w.]|file:///|site-packages/|/Users/\w")
        found = {}
        for path in tracked:
            if path == Path(__file__):
                continue
            lines = path.read_text(encoding="utf-8", errors="ignore").splitlines()
            hits = [line.strip()[:120] for line in lines if forbidden.search(line)]
            if hits:
                found[str(path.relative_to(ROOT))] = hits[:3]
        assert not found

    def test_no_committed_file_is_large(self, tracked):
        everything = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
        large = [name for name in everything if name and (ROOT / name).exists() and (ROOT / name).stat().st_size > 4e6]
        assert not large

    def test_labels_list_every_sample(self):
        folder = ROOT / "data_samples"
        with open(folder / "labels.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["clip", "label"]
        clips = {path.name for path in folder.iterdir() if path.suffix in (".mp4", ".webm")}
        assert {row["clip"] for row in rows} == clips
        assert all(row["label"].replace(" ", "_") == Path(row["clip"]).stem for row in rows)

    def test_table_of_contents_lists_every_page_once_and_no_stub(self):
        contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text())
        listed = [contents["root"]] + [entry["file"] for part in contents["parts"] for entry in part["chapters"]]
        book = ROOT / "book"
        pages = [path for path in book.rglob("*") if path.suffix in (".md", ".ipynb") and "." not in path.parts[-2]]
        assert sorted(listed) == sorted(str(path.relative_to(book).with_suffix("")) for path in pages)
        assert min(path.stat().st_size for path in pages) > 150

    def test_start_page_links_every_chapter_and_lists_every_planned_one(self):
        text = (ROOT / "book" / "index.md").read_text()
        linked = set(re.findall(r"\]\((\w+\.ipynb)\)", text))
        assert linked == {path.name for path in (ROOT / "book").glob("*.ipynb")}
        the_map = text[text.index("## The map") : text.index("**Back matter**")]
        numbers = [int(number) for number in re.findall(r"(?:>|· |\[)(\d+) ", the_map)]
        assert numbers == list(range(1, 19))
        planned = [
            int(number)
            for span in re.findall(r'"planned">(.*?)<', the_map)
            for number in re.findall(r"(?:^|· )(\d+) ", span)
        ]
        existing = [int(name.split("_")[0]) for name in linked if not name.startswith("00")]
        assert sorted(planned + existing) == numbers

    def test_every_module_is_documented_on_the_package_page(self):
        files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "minirsa").rglob("[a-z]*.py"))
        documented = re.findall(r"automodule:: (\S+)", (ROOT / "book" / "back" / "api.md").read_text())
        assert sorted(documented) == sorted(".".join(file.parts) for file in files)

    def test_bibliography_has_the_nineteen_works_of_the_review(self):
        text = (ROOT / "book" / "references.bib").read_text()
        numbers = [int(number) for number in re.findall(r"Number (\d+) in the review", text)]
        assert sorted(numbers) == list(range(1, 20))


class TestMake:
    def test_bare_make_lists_every_documented_target(self):
        text = (ROOT / "Makefile").read_text()
        documented = re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE)
        assert {"book", "test", "serve", "execute", "lint", "bench", "samples", "setup"} <= set(documented)
        (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
        assert set(phony.split()) == set(documented)
        listing = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert all(f"make {target} " in listing for target in documented)

    @pytest.mark.parametrize("version", ["3.10.13", "3.14.0"])
    def test_another_python_is_refused_with_advice(self, tmp_path, version):
        """A stand-in for python3 that claims to be another version, in a copy of the Makefile."""
        major, minor, patch = version.split(".")
        python = tmp_path / "python-stand-in"
        python.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo Python {version}; exit; fi\n'
            f"exec {sys.executable} -c "
            f'"import sys; sys.version_info = ({major}, {minor}, {patch}); exec(sys.argv[1])" "$2"\n'
        )
        python.chmod(0o755)
        for name in ("Makefile", "constraints.txt", "pyproject.toml"):
            (tmp_path / name).write_text((ROOT / name).read_text())
        done = subprocess.run(
            ["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert f"Python {version} is not supported" in done.stderr
        assert "3.11, 3.12 or 3.13" in done.stderr
        assert not (tmp_path / ".venv").exists()

    def test_execute_without_a_chapter_says_what_is_missing(self):
        done = subprocess.run(["make", "execute"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "CHAPTER=13" in done.stderr

    def test_a_second_set_up_does_nothing(self):
        if not (ROOT / ".venv" / "ready").exists():
            pytest.skip("not set up by make")
        done = subprocess.run(["make", "--dry-run", "setup"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "pip" not in done.stdout

    def test_the_book_is_built_by_jupyter_book_1_only(self, monkeypatch):
        import build

        build.check_version()
        monkeypatch.setattr(build, "version", lambda name: "2.0.1")
        with pytest.raises(SystemExit, match=r"2\.0\.1 is installed, this book needs 1\.x"):
            build.check_version()

    def test_ci_run_is_executable_and_stops_at_the_first_error(self):
        path = ROOT / ".ci" / "run"
        text = path.read_text()
        assert os.access(path, os.X_OK)
        assert "set -euo pipefail" in text
        for command in ("make lint", "make test", "make site", "make browser"):
            assert re.search(rf"^{command}", text, re.MULTILINE)


class TestMathjax:
    def test_a_file_with_another_sum_is_refused(self, monkeypatch, tmp_path, capsys):
        monkeypatch.setattr(mathjax, "TARGET", tmp_path / "folder" / "tex-svg.js")
        monkeypatch.setattr(mathjax, "from_npm", lambda folder: b"something else")
        monkeypatch.setattr(mathjax, "from_pypi", lambda folder: b"something else")
        mathjax.main()
        assert mathjax.TARGET.read_bytes() == b""
        assert "CDN" in capsys.readouterr().out


class TestPackage:
    def test_import_is_silent_and_leaves_torch_and_decoders_alone(self):
        check = (
            "import sys, time; start = time.perf_counter(); import minirsa; took = time.perf_counter() - start; "
            "heavy = {'torch', 'numpy', 'matplotlib', 'decord', 'av', 'ipywidgets'} & set(sys.modules); "
            "assert not heavy, heavy; assert took < 0.5, took"
        )
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def test_wheel_holds_the_package_its_weights_and_nothing_else(self, tmp_path):
        """What `pip install .` would install, built without a network from a copy of the tree."""
        source = tmp_path / "source"
        source.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            (source / name).write_bytes((ROOT / name).read_bytes())
        for path in (ROOT / "minirsa").rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                target = source / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        done = subprocess.run(
            [*command, "--wheel-dir", str(tmp_path), str(source)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(next(tmp_path.glob("minirsa-*.whl"))) as wheel:
            names = wheel.namelist()
            (entry_points,) = [wheel.read(name).decode() for name in names if name.endswith("entry_points.txt")]
            (metadata,) = [wheel.read(name).decode() for name in names if name.endswith("METADATA")]
        assert {name.split("/")[0] for name in names} == {"minirsa", f"minirsa-{address.release()}.dist-info"}
        modules = {str(path.relative_to(ROOT)) for path in (ROOT / "minirsa").rglob("*.py")}
        assert modules <= set(names)
        assert [name for name in names if name.startswith("minirsa/weights/") and name.endswith(".safetensors")]
        assert "minirsa = minirsa.cli:main" in entry_points
        required = [
            line.split()[1]
            for line in metadata.splitlines()
            if line.startswith("Requires-Dist") and "extra" not in line
        ]
        assert {re.match(r"[\w-]+", line).group() for line in required} == {
            "torch",
            "numpy",
            "matplotlib",
            "ipywidgets",
            "safetensors",
            "av",
            "pillow",
            "decord",
        }
        assert {
            "minirsa/training/reference/rsanet_r50_ssv1_16f.csv",
            "minirsa/training/reference/rsanet_r50_ssv2_16f.csv",
        } <= set(names)
