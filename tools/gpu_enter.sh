#!/usr/bin/env bash
# Runs a command in the Debian that tools/gpu.sh set up in the folder $1, in a namespace of its own with the made-up
# card; the folder $2 is /mnt/folder there, and this checkout is /mnt/repository. The rest is the command.
set -euo pipefail
gpu=$(cd "$1" && pwd) folder=$(cd "$2" && pwd) repository=$(cd "$(dirname "$0")/.." && pwd)
shift 2
if [ "${MIMO_GPU_INSIDE:-}" != 1 ]; then
    maps=()
    [ "$(id -u)" = 0 ] || maps=(--map-root-user)
    MIMO_GPU_INSIDE=1 exec unshare --mount "${maps[@]}" bash "$0" "$gpu" "$folder" "$@"
fi
for each in proc dev sys; do mount --rbind "/$each" "$gpu/root/$each"; done
mount --bind "$gpu/class" "$gpu/root/sys/class"
mount --bind "$repository" "$gpu/root/mnt/repository"
mount --bind "$gpu/wheels" "$gpu/root/mnt/wheels"
mount --bind "$folder" "$gpu/root/mnt/folder"
exec chroot "$gpu/root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/mnt/folder MIMO_CACHE=/mnt/folder/cache TMPDIR=/mnt/folder \
    XDG_RUNTIME_DIR=/mnt/folder PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/mnt/wheels:/mnt/repository/src:/mnt/repository \
    /usr/bin/python3 "$@"
