"""API keys and tenants; whose files, uploads, adapters and webhook endpoints are."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ('files', 'uploads', 'adapters', 'webhook_endpoints'):
        op.add_column(table, sa.Column('tenant', sa.String(length=64), nullable=False, server_default='default'))
    op.add_column('adapters', sa.Column('shared', sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(op.f('ix_files_tenant_created_at'), 'files', ['tenant', 'created_at'], unique=False)
    op.create_index(op.f('ix_jobs_tenant_created_at'), 'jobs', ['tenant', 'created_at'], unique=False)
    op.create_index(op.f('ix_jobs_adapter'), 'jobs', ['adapter'], unique=False)
    op.create_table('tenants',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_tenants'))
    )
    op.create_table('api_keys',
        sa.Column('id', sa.String(length=64), nullable=False),
        sa.Column('tenant', sa.String(length=64), nullable=False),
        sa.Column('name', sa.Text(), nullable=False),
        sa.Column('digest', sa.String(length=64), nullable=False),
        sa.Column('hint', sa.String(length=8), nullable=False),
        sa.Column('scopes', sa.JSON(), nullable=False),
        sa.Column('created_at', sa.Double(), nullable=False),
        sa.Column('expires_at', sa.Double(), nullable=True),
        sa.Column('last_used_at', sa.Double(), nullable=True),
        sa.Column('revoked_at', sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(['tenant'], ['tenants.id'], name=op.f('fk_api_keys_tenant_tenants')),
        sa.PrimaryKeyConstraint('id', name=op.f('pk_api_keys')),
        sa.UniqueConstraint('digest', name=op.f('uq_api_keys_digest'))
    )
    op.create_index(op.f('ix_api_keys_tenant_created_at'), 'api_keys', ['tenant', 'created_at'], unique=False)
