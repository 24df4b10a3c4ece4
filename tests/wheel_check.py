"""Build the wheel, install it in a clean environment, and use it from another folder.

Why it exists: an editable install also exposes `sites` and `tests`; only the wheel
shows what users get. Run by `make wheel`; it prints what it saw and exits non-zero
on the first difference.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LATER = "99.0.0"
EXPECTED = {"fedmed", "fedmed_site", "fedmed_server", "fedmed_sim"}


def main() -> None:
    """Check the wheel."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", str(work), str(ROOT))
        wheel = next(work.glob("*.whl"))
        check_content(wheel)
        python = install(wheel, work)
        fedmed = python.with_name("fedmed")
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        shown = run(str(fedmed), "simulate", "--cfg", "job", cwd=elsewhere)
        expect("family: tabular-transformer" in shown, "the wheel's configuration is found")
        page = run(
            str(fedmed), "simulate", "engine=inprocess", "plan.rounds=1", "plan.local_steps=1", "out=runs",
            "scenario.patients_per_site=120", "model=linear", cwd=elsewhere,
        ).splitlines()[-1]  # fmt: skip
        expect((Path(page) / "summary.json").is_file(), "the wheel runs a simulation and writes its summary")
        bare = subprocess.run([str(python), "-c", "import sites"], capture_output=True, check=False, cwd=elsewhere)
        expect(bare.returncode != 0, "the wheel exposes no bare `sites`")
        check_upgrade(fedmed, work)
    print("wheel: all checks passed")


def check_content(wheel: Path) -> None:
    """Check that only our packages, the configuration and the typing marks are inside."""
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    expect(tops == EXPECTED, f"top-level packages are {sorted(EXPECTED)}, got {sorted(tops)}")
    for needed in ("fedmed/conf/config.yaml", "fedmed/py.typed", "fedmed_sim/templates/report.html.j2"):
        expect(needed in names, f"{needed} is in the wheel")


def install(wheel: Path, work: Path) -> Path:
    """Install the wheel and what it declares, nothing else, in a new environment; return its Python."""
    venv.create(work / "env", with_pip=True)
    python = work / "env" / "bin" / "python"
    run(str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    return python


def check_upgrade(fedmed: Path, work: Path) -> None:
    """Follow the how-to's upgrade, to a wheel of the same sources under a later version, beside a site's folder."""
    home = work / "site"
    run(str(fedmed), "site", "init", "--home", str(home), "--name", "hospital")
    later = later_sources(work / "later")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(work / "wheelhouse"), str(later))
    page = (ROOT / "docs" / "how-to" / "kits.md").read_text()
    block = page.split("## Upgrade")[1].split("```bash\n")[1].split("```")[0]
    said = {}
    for line in block.splitlines():
        if not line.startswith("systemctl "):
            words = (
                line.replace("/opt/fedmed/bin", str(fedmed.parent)).replace("/var/lib/fedmed-site", str(home)).split()
            )
            said[line] = run(*words, cwd=work)
    expect(any(LATER in shown for shown in said.values()), f"the upgrade's commands lead to version {LATER}")
    expect(any("audit.jsonl" in shown for shown in said.values()), "the upgraded version verifies the site's folder")


def later_sources(target: Path) -> Path:
    """Copy what the wheel is made of, under a later version."""
    for name in ("fedmed", "sites", "server", "simulations", "conf"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, target / name)
    for path, before in (
        (target / "pyproject.toml", 'version = "'),
        (target / "fedmed/__init__.py", '__version__ = "'),
    ):
        text = path.read_text()
        head, _, rest = text.partition(before)
        path.write_text(head + before + LATER + rest[rest.index('"') :])
    return target


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return its standard output; show everything if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def expect(condition: bool, what: str) -> None:  # noqa: FBT001  a predicate reads best in first place
    """Exit unless `condition`; say what was seen otherwise."""
    if not condition:
        sys.exit(f"wheel: expected that {what}")
    print(f"wheel: {what}")


if __name__ == "__main__":
    main()
