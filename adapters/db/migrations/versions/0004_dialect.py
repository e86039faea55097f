"""What OpenAI's clients send: integrations, and the same request once more.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('integrations', sa.JSON(none_as_null=True), nullable=True))
    op.create_table('sendings',
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('retries', sa.Integer(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('digest', name=op.f('pk_sendings'))
    )
