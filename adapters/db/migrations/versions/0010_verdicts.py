"""What engines were found to compute of a version."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        'verdicts',
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('engine', sa.String(length=200), nullable=False),
        sa.Column('outcome', sa.String(length=16), nullable=False),
        sa.Column('reason', sa.Text(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('digest', 'engine', name=op.f('pk_verdicts')),
    )
