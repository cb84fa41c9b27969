-- The stable reporting interface of the ledger: the tables behind may change, these views keep their columns. Only the
-- role `jobplatform_reporting` reads them; it can do nothing else, and its statements time out (docs/operations/reporting.md).
CREATE SCHEMA IF NOT EXISTS reporting;
COMMENT ON SCHEMA reporting IS 'Documented views for SQL reports; columns are only ever added';
