#!/bin/sh
# Make the secrets that docker-compose.yml names: random passwords in ./secrets, each kept when it is there.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
for name in postgres database worker_database operator dispatcher worker monitor reporting flower; do
    file="secrets/${name}_password"
    # the containers' users read them by their mode; the folder keeps everybody else out
    [ -s "$file" ] || { od -An -tx1 -N24 /dev/urandom | tr -d ' \n' >"$file" && chmod 444 "$file" && echo "made $file"; }
done
file=secrets/smtp_url
[ -s "$file" ] || { printf smtp://host.docker.internal:25 >"$file" && chmod 444 "$file" && echo "made $file: put your mail relay's URL into it"; }
file=secrets/llm_api_key
[ -s "$file" ] || { printf unused >"$file" && chmod 444 "$file" && echo "made $file: put your model server's key into it"; }
