"""Checkpoints that can be asked."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('checkpoints',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('adapter', sa.String(length=64), nullable=False),
        sa.Column('base_model', sa.String(length=128), nullable=False),
        sa.Column('step', sa.Integer(), nullable=False),
        sa.Column('name', sa.String(length=256), nullable=False),
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('manifest', sa.JSON(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('deleted_at', sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_checkpoints_job_id_jobs')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_checkpoints')),
        sa.UniqueConstraint('job_id', 'step', name=op.f('uq_checkpoints_job_id_step'))
    )
    op.create_index(op.f('ix_checkpoints_name'), 'checkpoints', ['name'], unique=False)
    op.create_index(op.f('ix_checkpoints_digest'), 'checkpoints', ['digest'], unique=False)
