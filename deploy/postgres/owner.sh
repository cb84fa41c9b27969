#!/bin/sh
# Run by the image at the first start: the role of the platform, owner of its database and no superuser.
# CREATEROLE is for the logins of `jobplatform reporting login`.
set -eu
psql --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" --set ON_ERROR_STOP=1 \
    --set password="$(cat /run/secrets/database_password)" <<'SQL'
CREATE ROLE jobplatform LOGIN CREATEROLE PASSWORD :'password';
ALTER DATABASE jobplatform OWNER TO jobplatform;
SQL
