"""Shares of aliases, sampling defaults of adapters, and what was live before."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('adapters', sa.Column('sampling', sa.JSON(none_as_null=True), nullable=True))
    op.add_column('aliases', sa.Column('weight', sa.Double(), nullable=False, server_default='0'))
    op.create_table(
        'live_history',
        sa.Column('adapter', sa.String(length=64), nullable=False),
        sa.Column('seq', sa.Integer(), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('undone', sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.ForeignKeyConstraint(['adapter'], ['adapters.name'], name=op.f('fk_live_history_adapter_adapters')),
        sa.PrimaryKeyConstraint('adapter', 'seq', name=op.f('pk_live_history')),
    )
    # What is live now is all that is known of the past.
    op.execute("INSERT INTO live_history (adapter, seq, number) SELECT adapter, 1, number FROM aliases WHERE alias = 'live'")
