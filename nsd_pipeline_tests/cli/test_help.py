"""What `nsd` says of itself fits into a window of 80 columns."""

from nsd_pipeline_tests.cli.conftest import Nsd


def test_no_summary_of_a_command_is_cut(nsd: Nsd) -> None:
    assert "..." not in nsd("--help").stdout.partition("Commands:")[2]


def test_what_may_follow_a_command_is_named_in_one_word(nsd: Nsd) -> None:
    assert "run [OPTIONS] COHORTS...\n" in nsd("run", "--help").stdout
