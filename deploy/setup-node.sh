#!/bin/sh
# Install what tests of callers in Node.js need into .local/node. Called by make when tests/node/package.json is newer.
set -eu
cd "$(dirname "$0")/.."

if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing nodejs npm by apt-get …"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q install -y --no-install-recommends nodejs npm >/dev/null 2>&1 ||
            { apt-get -q update >/dev/null && apt-get -q install -y --no-install-recommends nodejs npm >/dev/null; }
    else
        echo "jobplatform: please install Node.js: apt-get install nodejs npm | dnf install nodejs | brew install node" >&2
        exit 1
    fi
fi
mkdir -p .local/node
cp tests/node/* .local/node/
npm install --prefix .local/node --no-package-lock --no-audit --no-fund --loglevel=error >.local/node/npm.log 2>&1 ||
    { cat .local/node/npm.log >&2; exit 1; }
touch .local/node/.installed
