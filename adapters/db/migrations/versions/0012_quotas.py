"""Whom adapters are shared with, and how much versions and checkpoints hold."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'adapter_shares',
        sa.Column('adapter', sa.String(length=64), nullable=False),
        sa.Column('tenant', sa.String(length=64), nullable=False),
        sa.Column('may_continue', sa.Boolean(), nullable=False),
        sa.Column('may_download', sa.Boolean(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(['adapter'], ['adapters.name'], name=op.f('fk_adapter_shares_adapter_adapters')),
        sa.PrimaryKeyConstraint('adapter', 'tenant', name=op.f('pk_adapter_shares')),
    )
    op.create_index(op.f('ix_adapter_shares_tenant'), 'adapter_shares', ['tenant'])
    # What was shared was everybody's to ask and to continue.
    op.execute(
        "INSERT INTO adapter_shares (adapter, tenant, may_continue, may_download, created_at) "
        "SELECT name, '*', true, false, created_at FROM adapters WHERE shared AND deleted_at IS NULL"
    )
    op.drop_column('adapters', 'shared')
    op.create_table(
        'weights_sizes',
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('bytes', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('digest', name=op.f('pk_weights_sizes')),
    )
