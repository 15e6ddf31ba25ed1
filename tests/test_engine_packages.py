"""PostgreSQL's packages are needed, and loaded, only where it is used."""

import subprocess
import sys


def test_without_its_packages_postgresql_is_refused_in_a_sentence_that_names_the_extra() -> None:
    script = (
        "import sys; sys.modules['pgqueuer'] = None; sys.modules['pgqueuer.domain.settings'] = None\n"
        "import tale.servers.roles, tale.servers.shared\n"
        "from tale.storage.task_jobs import job_settings\n"
        "job_settings()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip().endswith("install it with: pip install 'tale[postgres]'")


def test_the_packages_of_postgresql_are_imported_only_where_they_are_needed() -> None:
    script = (
        "import sys, tale.servers.roles, tale.servers.service\n"
        "assert not {'pgqueuer', 'asyncpg', 'psycopg'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
