#!/usr/bin/env bash
# A Docker engine for tests, from Debian's packages and without installing one, and a base image without a registry.
#   engine.sh up DIR        starts it; its socket is DIR/docker.sock
#   engine.sh base NAME     makes the image NAME of this machine's Python, in the engine at DOCKER_HOST
#   engine.sh compiler NAME likewise, with Debian's C compiler
#   engine.sh down DIR      ends it and removes all that it left: containers, images, the bridge
# Needs root, and a Debian whose packages apt can download.
set -euo pipefail

PACKAGES=(docker.io containerd runc tini)
COMPILER=(gcc-12 cpp-12 libgcc-12-dev libcc1-0 binutils-x86-64-linux-gnu binutils-common libbinutils libctf0 libctf-nobfd0
  libgprofng0 libc6-dev linux-libc-dev libcrypt-dev libcrypt1 libisl23 libmpc3 libmpfr6 libgmp10 zlib1g libzstd1 libjansson4)
BRIDGE=docker0

unpacked() { # unpacked DIR PACKAGE… : unpacks Debian's packages below DIR
  local into=$1 debs
  shift
  debs=$(mktemp -d)
  (cd "$debs" && apt-get download -qq "$@" > /dev/null && for deb in *.deb; do dpkg -x "$deb" "$into"; done)
  rm -rf "$debs"
}

answers() { curl --silent --fail --unix-socket "$1" http://engine/_ping > /dev/null; }

up() {
  local dir=$1
  mkdir -p "$dir/root" "$dir/data" "$dir/exec"
  [ -x "$dir/root/usr/sbin/dockerd" ] || unpacked "$dir/root" "${PACKAGES[@]}"
  ip link show "$BRIDGE" > /dev/null 2>&1 || touch "$dir/bridge-is-ours"
  export PATH="$dir/root/usr/bin:$dir/root/usr/sbin:$PATH"
  # A mount namespace of its own hides an empty cgroup2 mount, over which the engine stumbles. Without rules of
  # iptables, published ports go through the engine's own proxy, and nothing of the host's network is changed.
  setsid unshare --mount --propagation private sh -c "umount /sys/fs/cgroup/unified 2> /dev/null || :
    exec dockerd --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false --data-root '$dir/data' \
      --exec-root '$dir/exec' --pidfile '$dir/pid' --host 'unix://$dir/docker.sock'" > "$dir/log" 2>&1 < /dev/null &
  for _ in $(seq 300); do
    answers "$dir/docker.sock" && return
    sleep 0.1
  done
  tail -n 20 "$dir/log" >&2
  return 1
}

down() {
  local dir=$1 pid socket=$1/docker.sock id
  if answers "$socket"; then
    for id in $(curl --silent --unix-socket "$socket" 'http://engine/containers/json?all=1' | grep -o '"Id":"[0-9a-f]*"' | cut -d '"' -f 4); do
      curl --silent --unix-socket "$socket" -X DELETE "http://engine/containers/$id?force=1&v=1" > /dev/null
    done
  fi
  if [ -e "$dir/pid" ]; then
    pid=$(cat "$dir/pid")
    kill "$pid" 2> /dev/null || :
    for _ in $(seq 300); do
      kill -0 "$pid" 2> /dev/null || break
      sleep 0.1
    done
  fi
  [ ! -e "$dir/bridge-is-ours" ] || ip link delete "$BRIDGE" 2> /dev/null || :
  rm -rf "$dir"
}

libraries_of() { # the shared libraries that files link
  ldd "$@" 2> /dev/null | grep -oE '/[^ ]+\.so[^ ]*' | sort -u
}

imported() { # imported DIR NAME: the tree DIR as an image
  tar --create --directory "$1" . | curl --silent --fail --unix-socket "${DOCKER_HOST#unix://}" -X POST --upload-file - \
    -H 'Content-Type: application/x-tar' \
    "http://engine/images/create?fromSrc=-&repo=${2%:*}&tag=${2##*:}&changes=ENV%20PATH%3D/usr/local/bin:/usr/bin:/bin" > /dev/null
}

base_tree() {
  local root=$1 python version tool library
  python=$(python3 -c 'import sys; print(sys.base_prefix)')
  version=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  mkdir -p "$root"/{tmp,proc,sys,dev,run,root,etc/ssl/certs,usr/local/bin,usr/bin,usr/lib,usr/lib64,var/tmp}
  chmod 1777 "$root/tmp" "$root/var/tmp"
  for each in bin lib lib64; do ln -s "usr/$each" "$root/$each"; done
  tar --create --directory "$python" --exclude "lib/$version/site-packages/*" --exclude "lib/$version/test" \
    --exclude '*/__pycache__' --exclude "lib/$version/idlelib" --exclude "lib/$version/tkinter" --exclude 'lib/*.a' \
    include lib | tar --extract --directory "$root/usr/local"
  cp "$python/bin/$version" "$root/usr/local/bin/"
  ln -s "$version" "$root/usr/local/bin/python3"
  ln -s "$version" "$root/usr/local/bin/python"
  for tool in sh ls cat cp mv rm mkdir chmod chown ln env sleep id touch; do cp -L "$(command -v $tool)" "$root/usr/bin/"; done
  {
    libraries_of "$python/bin/$version" "$root"/usr/bin/* "$python/lib/$version"/lib-dynload/*.so
    dpkg -L libc6 libgcc-s1 libstdc++6 libgomp1 | grep -E '^(/usr)?/lib/[^/]+/.*\.so'
  } | grep -v "^$python/" | sort -u | while read -r library; do
    mkdir -p "$root/usr$(dirname "${library#/usr}")"
    cp -L "$library" "$root/usr${library#/usr}"
  done
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  printf 'root:x:0:0:root:/root:/bin/sh\n' > "$root/etc/passwd"
  printf 'root:x:0:\n' > "$root/etc/group"
  printf 'hosts: files dns\n' > "$root/etc/nsswitch.conf"
  printf '/usr/local/lib\n/usr/lib/%s\n' "$(dpkg-architecture -qDEB_HOST_MULTIARCH 2> /dev/null || echo x86_64-linux-gnu)" \
    > "$root/etc/ld.so.conf"
  /sbin/ldconfig -r "$root" 2> /dev/null
  env -i PATH=/usr/local/bin:/usr/bin:/bin /usr/sbin/chroot "$root" /usr/local/bin/python3 -m ensurepip > /dev/null 2>&1
}

made() { # made NAME TREE… : an image of what the functions TREE put below a directory
  local name=$1 tree
  tree=$(mktemp -d)
  shift
  for each in "$@"; do "$each" "$tree"; done
  imported "$tree" "$name"
  rm -rf "$tree"
}

compiler_tree() {
  local files=$1/unpacked
  unpacked "$files" "${COMPILER[@]}"
  # Packages of Debian 12 still have files in /lib, which is a link here.
  [ ! -d "$files/lib" ] || cp --archive --no-clobber "$files/lib/." "$1/usr/lib/"
  cp --archive --no-clobber "$files/usr/." "$1/usr/"
  rm -r "$files"
  for each in gcc cc; do ln -sf gcc-12 "$1/usr/bin/$each"; done
  for each in as ld ar ranlib strip; do ln -sf "x86_64-linux-gnu-$each" "$1/usr/bin/$each"; done
  /sbin/ldconfig -r "$1" 2> /dev/null
}

case ${1:-} in
  up) up "${2:?}" ;;
  base) made "${2:?}" base_tree ;;
  compiler) made "${2:?}" base_tree compiler_tree ;;
  down) down "${2:?}" ;;
  *) sed -n '2,7s/^# //p' "$0"; exit 2 ;;
esac
