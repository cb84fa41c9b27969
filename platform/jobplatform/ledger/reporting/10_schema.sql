-- What people may ask the ledger, in words that stay: the tables behind may change, these views keep their columns.
-- Reading is for the role `jobplatform_reporting`, which can do nothing else, and not for long (docs/operations/reporting.md).
CREATE SCHEMA IF NOT EXISTS reporting;
COMMENT ON SCHEMA reporting IS 'Documented views for SQL reports; columns are only ever added';
