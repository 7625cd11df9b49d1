#!/bin/sh
# Boots systemd in a container over an overlay of the running root. Run by container.py in pid and
# mount namespaces of its own: all of it is gone with this process, killed or not.
#   boot.sh DIRECTORY NAME [--lower=SOURCE:TARGET | --bind=SOURCE:TARGET]... [-- NSPAWN_OPTION...]
set -eu
place=$1 name=$2
shift 2
mount -t tmpfs -o mode=0755 tmpfs "$place"
root=$place/root

# overlay SOURCE TARGET NAME: writes to TARGET stay in memory.
overlay() {
    mkdir -p "$place/$3.up" "$place/$3.work" "$2"
    options="lowerdir=$1,upperdir=$place/$3.up,workdir=$place/$3.work"
    mount -t overlay overlay -o "$options" "$2"
}
overlay / "$root" root
# What container images have so that packages start and stop nothing; a machine has none.
rm -f "$root/usr/sbin/policy-rc.d"

number=0
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    pair=${1#*=}
    number=$((number + 1))
    case $1 in
    --lower=*) overlay "${pair%%:*}" "$root${pair#*:}" "layer$number" ;;
    --bind=*)
        mkdir -p "$root${pair#*:}"
        mount --bind "${pair%%:*}" "$root${pair#*:}"
        ;;
    esac
    shift
done
[ $# -eq 0 ] || shift

if [ ! -d /run/systemd/system ]; then
    # No systemd to ask for a scope: a cgroup of our own, since nspawn's "payload" is a fixed name.
    for tree in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
        if [ -e "$tree/cgroup.procs" ]; then
            mkdir "$tree/$name"
            echo 0 >"$tree/$name/cgroup.procs"
        fi
    done
    set -- --keep-unit "$@"
fi

# 133: it is to be booted again, says systemd-nspawn, which leaves that to us with --keep-unit.
code=133
while [ $code -eq 133 ]; do
    code=0
    systemd-nspawn --quiet --directory="$root" --machine="$name" --boot --register=no \
        --link-journal=no --console=pipe "$@" || code=$?
done
exit $code
