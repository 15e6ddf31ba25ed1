"""Has a process give way to all others: for work that nobody waits for.

Linux shares processors among sessions first (sched(7), "The autogroup feature"): there the niceness of a process counts
only within its own session, and each session has a niceness besides.
"""

import logging
import os
from pathlib import Path
from typing import Final

NICENESS: Final = 19
ORDINARY: Final = 0
OF_SESSION: Final = Path("/proc/self/autogroup")

logger = logging.getLogger(__name__)


def give_way() -> None:
    """From now on this process and its children run when others leave them time, in a session of their own.

    One that was started by a shell stays in the shell's session, which is not slowed down.
    """
    os.nice(NICENESS)
    own = os.getpid()
    if own not in (os.getsid(0), os.getpgrp()):
        os.setsid()
    if os.getsid(0) == own:
        set_session_niceness(NICENESS)


def set_session_niceness(niceness: int) -> None:
    """How far this process's whole session gives way; nothing where the system does not know of that."""
    try:
        OF_SESSION.write_text(f"{niceness}\n")
    except OSError as error:
        logger.debug("The niceness of the session stays as it is: %s", error)
