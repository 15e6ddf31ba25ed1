"""Whose key rated a result; and other names for keys that are called as those of whoever runs tale."""

import logging
from itertools import count

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

OWN_KEYS = ("owner", "api_key")

logger = logging.getLogger("tale.storage.migrations")


def upgrade() -> None:
    """Add it to the ratings, of which those from before have none, and rename such keys, which open as before."""
    op.add_column("feedback", sa.Column("key_name", sa.Text()))
    keys = sa.table("access_keys", sa.column("name", sa.Text()))
    connection = op.get_bind()
    taken = set(connection.scalars(sa.select(keys.c.name)))
    for name in taken.intersection(OWN_KEYS):
        free = next(each for each in (f"{name}-{number}" for number in count(1)) if each not in taken)
        connection.execute(sa.update(keys).where(keys.c.name == name).values(name=free))
        logger.warning("The key %r is called %r from now on: its name is that of whoever runs tale.", name, free)
