"""Alembic's entry: migrations run on the connection that `store.migrate` hands over."""

from alembic import context

from nancalacc.store.migrate import VERSION_TABLE
from nancalacc.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    compare_type=True,
    compare_server_default=False,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
