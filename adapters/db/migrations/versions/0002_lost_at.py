"""Where a job was when it was last lost."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('lost_at', sa.Integer(), server_default='0', nullable=False))
