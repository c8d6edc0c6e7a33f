"""What gorp stands on: every pin is free software, and is what `pyproject.toml` admits."""

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PINS = {
    canonicalize_name(pin.name): pin
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for pin in [Requirement(line)]
}
#: SPDX names of licences that the OSI approves, as far as dependencies have them, and two that it was never asked
#: about: Pillow's (MIT-CMU) and, for a few of numpy's files, the public domain (CC0-1.0).
FREE = {"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CNRI-Python", "ISC", "MIT", "MPL-2.0", "PSF-2.0", "Zlib"}
FREE |= {"BSL-1.0", "MIT-CMU", "CC0-1.0"}


def licence(name: str) -> bool:
    """Whether a package's metadata names a free licence: as SPDX, as a classifier, or in the old free text."""
    told = metadata(name)
    if expression := told.get("License-Expression"):
        names = re.sub(r"\bWITH \S+|[()]", " ", expression).replace(" AND ", " ").replace(" OR ", " ").split()
        return FREE.issuperset(names)
    if any(classifier.startswith("License :: OSI Approved ::") for classifier in told.get_all("Classifier", [])):
        return True
    return bool(re.match(r"(MIT|(3-Clause )?BSD|Apache|ISC|MPL|PSF)\b", told.get("License") or ""))


@pytest.mark.parametrize("name", sorted(PINS))
def test_every_dependency_is_free_software(name):
    try:
        assert licence(name), dict(metadata(name))
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed")


def test_the_ranges_admit_the_pins():
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for wanted in map(Requirement, ranges):
        if wanted.name == project["name"]:
            continue
        assert canonicalize_name(wanted.name) in PINS, f"{wanted} is not pinned"
        (pinned,) = PINS[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pinned.version), f"{wanted} does not admit {pinned}"


@pytest.mark.parametrize(
    ("told", "said", "code"),
    [
        ({"vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}, "a 1: CVE-1, fixed in 2", 1),
        ({"vulns": []}, "audited 1 of 1 pinned versions: 0 known", 0),
        ({"skip_reason": "not found"}, "audit skipped: nothing is known", 0),
        (None, "audit skipped: pip-audit could not ask", 0),
    ],
)
def test_the_audit_says_what_is_known_and_fails_for_a_vulnerability_alone(tmp_path, told, said, code):
    answer = "" if told is None else json.dumps({"dependencies": [{"name": "a", "version": "1", **told}]})
    pip_audit = tmp_path / "pip-audit"
    pip_audit.write_text(f"#!{sys.executable}\nprint({answer!r})\nraise SystemExit(1)\n")
    pip_audit.chmod(0o755)
    command = [sys.executable, str(ROOT / "scripts" / "audit.py"), str(pip_audit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said in done.stdout and done.returncode == code
