"""NSD's terms of use, and the record that a person accepted them.

The bucket does not enforce them, so we ask, once and before the first byte. Most of this code runs
where nobody can answer (a daemon, a Slurm job), therefore acceptance is a file that a person made
beforehand with ``nsd terms --accept``, or ``NSD_ACCEPT_TERMS=1`` in the environment of a machine
whose owner did. A local mirror needs none: whoever made it has the agreement already.
"""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import AwareDatetime, BaseModel, ValidationError

from nsd_pipeline.errors import NsdError, TermsNotAcceptedError
from nsd_pipeline.storage.disk import replacing
from nsd_pipeline.storage.names import user_folder

TERMS_URL: Final = "https://cvnlab.slite.page/p/IB6BSeW_7o/Terms-and-Conditions"
TERMS_TEXT: Final = f"""\
The Natural Scenes Dataset is free to use under its terms and conditions:
  {TERMS_URL}

In short, and not instead of reading them:
  - You have submitted the NSD Data Access Agreement.
  - You use the data for research and education only.
  - You do not redistribute the data or its components.
  - Publications cite Allen et al. (2022, Nature Neuroscience) and acknowledge the grants
    NSF IIS-1822683 and NSF IIS-1822929.
"""
ENVIRONMENT_VARIABLE: Final = "NSD_ACCEPT_TERMS"


class Acceptance(BaseModel):
    """Who accepted which terms, and when."""

    who: str
    when: AwareDatetime
    terms_url: str


def _record() -> Path:
    """Lies in the user's settings, as the XDG base directory specification wants it."""
    return user_folder("XDG_CONFIG_HOME", ".config") / "terms.json"


def accept() -> Acceptance:
    """Record that the user of this process accepts NSD's terms.

    An NsdError if the record cannot be written.
    """
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in /etc/passwd
        who = f"user {os.getuid()}"
    acceptance = Acceptance(who=who, when=datetime.now(UTC), terms_url=TERMS_URL)
    record = _record()
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        with replacing(record) as draft:  # A daemon that reads at this moment sees all or nothing.
            draft.write_text(acceptance.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise NsdError(
            f"Your acceptance cannot be recorded in {record}: {error.strerror}.",
            next_step="set XDG_CONFIG_HOME to a folder that this user can write to, here and where"
            f" the pipeline runs; or set {ENVIRONMENT_VARIABLE}=1 there.",
        ) from error
    return acceptance


def accepted() -> Acceptance | None:
    """Return the recorded acceptance of the present terms, or None.

    A record of terms that lay at another address does not count.
    """
    try:
        acceptance = Acceptance.model_validate_json(_record().read_bytes())
    except (NsdError, OSError, ValidationError):  # the first: there is no place for it
        return None
    return acceptance if acceptance.terms_url == TERMS_URL else None


def require_acceptance(url: str) -> None:
    """Let pass whoever accepted NSD's terms, and may so read what lies at this address.

    A TermsNotAcceptedError if neither the record nor ``NSD_ACCEPT_TERMS=1`` says so.
    """
    if os.environ.get(ENVIRONMENT_VARIABLE) == "1" or accepted():
        return
    try:
        looked = f"looked for {_record()}"
    except NsdError as error:
        looked = error.problem
    raise TermsNotAcceptedError(
        f"NSD's terms of use are not accepted for this user, so nothing is read from {url} "
        f"({looked.rstrip('.')}).",
        next_step=f"read {TERMS_URL} and run `nsd terms --accept`; where no person is, such as on "
        f"a cluster's nodes, set {ENVIRONMENT_VARIABLE}=1.",
    )
