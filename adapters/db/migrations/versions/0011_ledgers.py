"""Which ledger this is: a store of artifacts is told whose it is, before anything in it that nobody names goes."""

import time
import uuid

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    ledgers = op.create_table(
        'ledgers',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_ledgers')),
    )
    op.bulk_insert(ledgers, [{'id': uuid.uuid4().hex, 'created_at': time.time()}])
