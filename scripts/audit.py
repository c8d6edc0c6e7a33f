"""Asks pip-audit whether the pinned dependencies have known vulnerabilities, and says for how many that is known.

    python scripts/audit.py PIP_AUDIT

Exit code 1 if there is one; 0 also where the service that knows them cannot be reached, which is then said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parent.parent / "constraints.txt"


def main(pip_audit: str) -> int:
    """Print what was found; returns the exit code."""
    options = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json", "--requirement"]
    done = subprocess.run([pip_audit, *options, str(PINS)], capture_output=True, text=True, check=False)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        print(f"audit skipped: pip-audit could not ask for vulnerabilities ({said[-1][:200]})")
        return 0
    known = [dependency for dependency in dependencies if "vulns" in dependency]
    if not known:
        print(f"audit skipped: nothing is known of any of {len(dependencies)} pinned versions; is the service reached?")
        return 0
    found = [(dependency, vulnerability) for dependency in known for vulnerability in dependency["vulns"]]
    for dependency, vulnerability in found:
        fixed = ", ".join(vulnerability["fix_versions"]) or "none yet"
        print(f"{dependency['name']} {dependency['version']}: {vulnerability['id']}, fixed in {fixed}")
    print(f"audited {len(known)} of {len(dependencies)} pinned versions: {len(found)} known vulnerabilities")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
