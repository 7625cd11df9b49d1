# Sourced by packaging/quickstart and packaging/test: sets $python, or ends with the remedy.

# Prints the interpreter itself: a version manager's python3 is a script that costs 0.1 s a call.
# ensurepip is what Debian leaves out of its Python until python3-venv is installed.
probe='import sys
from importlib.util import find_spec
if sys.version_info < (3, 11) or not find_spec("venv") or not find_spec("ensurepip"):
    sys.exit(1)
print(sys.executable)'

# Root's own python3 may be a version manager's, in a home that is closed to the service's user.
first=python3
if [ "$(id -u)" -eq 0 ]; then
    first=/usr/bin/python3
fi

python=
for candidate in "$first" python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if python=$("$candidate" -c "$probe" 2>/dev/null); then
        break
    fi
    python=
done

if [ -z "$python" ]; then
    cat >&2 <<'END'
error: no usable Python found: it must be 3.11 or newer and have the modules venv and ensurepip
  Debian, Ubuntu:   apt install python3 python3-venv
  Fedora, RHEL:     dnf install python3.12
  openSUSE:         zypper install python312
A Python under another name: put a link to it, named python3, first on the PATH.
END
    exit 1
fi
