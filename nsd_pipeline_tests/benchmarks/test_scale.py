"""What docs/scale.md says is what the script computes."""

from benchmarks.scale import tables
from nsd_pipeline_tests.automation.webserver import ROOT


def test_the_page_has_the_tables_that_the_script_prints() -> None:
    assert "\n".join(tables()) in (ROOT / "docs/scale.md").read_text()
