#!/bin/sh
# Make .venv and install the project into it. Called by make when setup.cfg or constraints.txt is newer.
set -eu
cd "$(dirname "$0")/.."

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

python=""
for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 /usr/bin/python3; do
    if command -v "$candidate" >/dev/null 2>&1 && supported "$candidate"; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
    echo "jobplatform: expected Python 3.11, 3.12 or 3.13, got $(python3 --version 2>&1 || echo none): install one, or name it: make PYTHON=/path/to/python" >&2
    exit 1
fi

# a venv that was interrupted, or whose Python has gone, is made anew
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    rm -rf .venv
    echo "making .venv with $("$python" --version) …"
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        # Debian's python3 comes without venv
        rm -rf .venv
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
            export DEBIAN_FRONTEND=noninteractive
            apt-get -q install -y --no-install-recommends python3-venv >/dev/null 2>&1 ||
                { apt-get -q update >/dev/null && apt-get -q install -y --no-install-recommends python3-venv >/dev/null; }
            "$python" -m venv .venv
        else
            echo "jobplatform: please install Python's venv: apt-get install python3-venv | dnf install python3 | brew install python" >&2
            exit 1
        fi
    fi
fi

echo "installing the project and its dependencies …"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]' 2>.venv/pip.log ||
    { cat .venv/pip.log >&2; exit 1; }
touch .venv/.installed
