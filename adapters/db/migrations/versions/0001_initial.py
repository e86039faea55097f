"""Files, jobs with their events, adapters with versions and aliases, stored replies."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table('adapters',
        sa.Column('name', sa.String(length=64), nullable=False),
        sa.Column('base_model', sa.String(length=128), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('last_number', sa.Integer(), nullable=False),
        sa.Column('revision', sa.BigInteger(), nullable=False),
        sa.Column('deleted_at', sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint('name', name=op.f('pk_adapters'))
    )
    op.create_index(op.f('ix_adapters_revision'), 'adapters', ['revision'], unique=False)
    op.create_table('files',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('filename', sa.Text(), nullable=False),
        sa.Column('purpose', sa.String(length=32), nullable=False),
        sa.Column('bytes', sa.BigInteger(), nullable=False),
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_files'))
    )
    op.create_table('jobs',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('adapter', sa.String(length=64), nullable=False),
        sa.Column('base_model', sa.String(length=128), nullable=False),
        sa.Column('training_file', sa.String(length=64), nullable=False),
        sa.Column('validation_file', sa.String(length=64), nullable=True),
        sa.Column('spec', sa.JSON(), nullable=False),
        sa.Column('dataset', sa.JSON(), nullable=False),
        sa.Column('metadata', sa.JSON(none_as_null=True), nullable=True),
        sa.Column('status', sa.String(length=16), nullable=False),
        sa.Column('phase', sa.String(length=16), nullable=False),
        sa.Column('progress', sa.JSON(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('started_at', sa.Double(), nullable=True),
        sa.Column('finished_at', sa.Double(), nullable=True),
        sa.Column('attempt', sa.Integer(), nullable=False),
        sa.Column('worker', sa.String(length=128), nullable=True),
        sa.Column('lease_expires_at', sa.Double(), nullable=True),
        sa.Column('losses', sa.Integer(), nullable=False),
        sa.Column('not_before', sa.Double(), nullable=False),
        sa.Column('error', sa.JSON(none_as_null=True), nullable=True),
        sa.Column('fine_tuned_model', sa.String(length=160), nullable=True),
        sa.Column('trained_tokens', sa.BigInteger(), nullable=True),
        sa.Column('last_event', sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_jobs'))
    )
    op.create_index(op.f('ix_jobs_created_at_id'), 'jobs', ['created_at', 'id'], unique=False)
    op.create_index(op.f('ix_jobs_status_created_at'), 'jobs', ['status', 'created_at'], unique=False)
    op.create_table('ledger_revision',
        sa.Column('id', sa.Integer(), nullable=False),
        sa.Column('value', sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_revision'))
    )
    op.create_table('replies',
        sa.Column('key', sa.String(length=300), nullable=False),
        sa.Column('request_digest', sa.String(length=64), nullable=False),
        sa.Column('status', sa.Integer(), nullable=False),
        sa.Column('body', sa.Text(), nullable=False),
        sa.Column('location', sa.Text(), nullable=True),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('key', name=op.f('pk_replies'))
    )
    op.create_table('aliases',
        sa.Column('adapter', sa.String(length=64), nullable=False),
        sa.Column('alias', sa.String(length=64), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(['adapter'], ['adapters.name'], name=op.f('fk_aliases_adapter_adapters')),
        sa.PrimaryKeyConstraint('adapter', 'alias', name=op.f('pk_aliases'))
    )
    op.create_table('job_events',
        sa.Column('job_id', sa.String(length=64), nullable=False),
        sa.Column('seq', sa.Integer(), nullable=False),
        sa.Column('kind', sa.String(length=16), nullable=False),
        sa.Column('level', sa.String(length=8), nullable=False),
        sa.Column('message', sa.Text(), nullable=False),
        sa.Column('data', sa.JSON(none_as_null=True), nullable=True),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(['job_id'], ['jobs.id'], name=op.f('fk_job_events_job_id_jobs')),
        sa.PrimaryKeyConstraint('job_id', 'seq', name=op.f('pk_job_events'))
    )
    op.create_table('versions',
        sa.Column('adapter', sa.String(length=64), nullable=False),
        sa.Column('number', sa.Integer(), nullable=False),
        sa.Column('base_model', sa.String(length=128), nullable=False),
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('job_id', sa.String(length=64), nullable=True),
        sa.Column('rank', sa.Integer(), nullable=False),
        sa.Column('manifest', sa.JSON(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('deleted_at', sa.Double(), nullable=True),
        sa.Column('purged_at', sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(['adapter'], ['adapters.name'], name=op.f('fk_versions_adapter_adapters')),
        sa.PrimaryKeyConstraint('adapter', 'number', name=op.f('pk_versions')),
        sa.UniqueConstraint('job_id', name=op.f('uq_versions_job_id'))
    )
    op.execute("INSERT INTO ledger_revision (id, value) VALUES (1, 0)")
