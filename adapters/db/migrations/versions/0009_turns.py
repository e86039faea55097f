"""How urgent a job is, what tenants have used of the devices, and who trains."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column('jobs', sa.Column('priority', sa.String(length=8), nullable=False, server_default='normal'))
    op.add_column('jobs', sa.Column('charged_at', sa.Double(), nullable=True))
    op.add_column('jobs', sa.Column('ran_seconds', sa.Double(), nullable=False, server_default='0'))
    op.create_index(
        op.f('ix_jobs_base_model_tenant_priority_started_at'),
        'jobs',
        ['base_model', 'tenant', 'priority', 'started_at'],
    )
    op.create_table(
        'device_use',
        sa.Column('tenant', sa.String(length=64), nullable=False),
        sa.Column('seconds', sa.Double(), nullable=False),
        sa.Column('as_of', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('tenant', name=op.f('pk_device_use')),
    )
    op.create_table(
        'workers',
        sa.Column('id', sa.String(length=128), nullable=False),
        sa.Column('base_model', sa.String(length=128), nullable=False),
        sa.Column('slots', sa.Integer(), nullable=False),
        sa.Column('expires_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_workers')),
    )
