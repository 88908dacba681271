"""A newcomer's first quarter of an hour: what docs/newcomer.sh tells to type, in one session."""

import re
from pathlib import Path

from nsd_pipeline_tests.docs.conftest import ROOT, Shell


def test_a_newcomers_first_quarter_of_an_hour(shell: Shell, workplace: Path) -> None:
    _, _, after_the_demo = (ROOT / "docs/newcomer.sh").read_text().partition("bin/activate\n")
    # The small dataset's embeddings were made under another name of the encoder: they are stale.
    done = shell(after_the_demo.replace("\nnsd status\n", "\nnsd status || true\n"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^one_session \d of 6 test trials", done.stdout, re.MULTILINE)
    assert "one_session,subj01" in done.stdout, "the report compares it"
    assert re.search(r"^The report: .*/decoding_report/report\.html$", done.stdout, re.MULTILINE)
    assert {path.name for path in workplace.glob("*.png")} == {
        "retrieved_subj01_ses01_1.png",
        "among_mine.png",
    }
