"""Say what pip-audit found in the lock files: `python .ci/audit.py build/audit.json`.

A known vulnerability is an error. What could not be looked up is said and is none: pip-audit by
itself says "no known vulnerabilities found" of what it has not found at all.
"""

import json
import sys
from pathlib import Path

report = Path(sys.argv[1])
found = json.loads(report.read_text())["dependencies"] if report.exists() else []
looked_up = [each for each in found if "skip_reason" not in each]
vulnerable = [each for each in looked_up if each["vulns"]]
for each in vulnerable:
    for known in each["vulns"]:
        fixed = ", ".join(known["fix_versions"]) or "no version yet"
        print(f"{each['name']} {each['version']}: {known['id']}, fixed in {fixed}")
if not report.exists():
    print("NOT AUDITED: PyPI could not be asked, see above. Run `make audit` where it can.")
elif len(looked_up) < len(found):
    names = ", ".join(each["name"] for each in found if each not in looked_up)
    print(f"NOT AUDITED: {len(found) - len(looked_up)} of {len(found)}, which PyPI does not know")
    print(f"from here ({names}). Run `make audit` where it does.")
print(f"{len(looked_up)} packages audited, {len(vulnerable)} with known vulnerabilities.")
sys.exit(bool(vulnerable))
