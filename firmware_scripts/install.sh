#!/usr/bin/env bash
# Installs edgeclin on a device. "install.sh --help" says how; README.md says what goes where.
set -euo pipefail
umask 022
# Else pip takes a package that lies there for one that is installed.
unset PYTHONPATH PYTHONHOME

HERE=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
readonly HERE
readonly OPT=/opt/edgeclin STATE=/var/lib/edgeclin CONFIG=/etc/edgeclin
readonly UNITS=/etc/systemd/system RULES=/etc/udev/rules.d

package='edgeclin[tflite]'
constraints=''
python=''
root=''
with_coral=no
dry_run=no
building=''     # the venv this run is making, until it is complete
previous=''     # the venv that was in use before this run
made_opt=no
units_changed=no
rules_changed=no
left=()         # commands that --root leaves to the image

usage() {
  cat <<'EOF'
Usage: install.sh [OPTIONS]

Installs edgeclin on this device: the user and group "edgeclin", a virtual environment under
/opt/edgeclin, /etc/edgeclin, /var/lib/edgeclin and two systemd units. Nothing is enabled or
started. A second run with the same options changes nothing.

  --package SPEC      what pip installs: a requirement or a wheel, with its extras
                      (default: edgeclin[tflite]; e.g. ./edgeclin-0.1.0-py3-none-any.whl[tflite])
  --constraints FILE  pip's constraints file, which pins every other package
  --python PATH       the Python to use, 3.10 or newer (default: /usr/bin/python3)
  --with-coral        also what a Coral needs: a udev rule and a drop-in for edgeclin-run
  --root DIR          lay everything out under DIR, for an image: no user is made, systemd is
                      not told, and what is left to do in the image is printed
  --dry-run           print every command and run none; needs no root
  --help              this text

Exit: 0 installed, 1 a mistake to mend, 2 wrong usage, 4 not possible on this machine.
EOF
}

fail() {
  printf 'install.sh: %s\n' "$2" >&2
  exit "$1"
}

step() { printf '%-14s %s\n' "$1" "$2"; }

run() {
  if [[ $dry_run == yes ]]; then
    printf '+ %s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

run_quietly() {
  if [[ $dry_run == yes ]]; then run "$@"; else "$@" >/dev/null; fi
}

quoted() {
  local words
  printf -v words '%q ' "$@"
  printf '%s' "${words% }"
}

# What needs the image's own user database is run there, not here.
run_on_device() {
  if [[ -n $root ]]; then
    left+=("$(quoted "$@")")
  else
    run "$@"
  fi
}

parse() {
  while (($#)); do
    case $1 in
      --package | --constraints | --python | --root)
        [[ -n ${2:-} && ${2:-} != -* ]] || fail 2 "$1 needs a value; see install.sh --help"
        printf -v "${1#--}" '%s' "$2"
        shift
        ;;
      --with-coral) with_coral=yes ;;
      --dry-run) dry_run=yes ;;
      --help | -h)
        usage
        exit 0
        ;;
      *) fail 2 "unknown option $1; see install.sh --help" ;;
    esac
    shift
  done
  if [[ -n $root ]]; then
    root=$(realpath -m -- "$root")
    [[ $root != / ]] || fail 2 "--root / is this machine itself; leave --root away to install here"
  fi
}

check_rights() {
  ((EUID == 0)) && return
  if [[ -n $root ]]; then
    step "rights" "not root: everything under $root will belong to $(id -un)"
  elif [[ $dry_run == yes ]]; then
    step "rights" "not root: what a closed folder holds is shown as if it were absent"
  else
    fail 4 "installing needs root: run it with sudo, or see what it would do with --dry-run"
  fi
}

check_python() {
  if [[ -z $python ]]; then
    python=/usr/bin/python3
    [[ -x $python ]] || python=$(command -v python3) ||
      fail 4 "there is no python3 here: install Python 3.10 or newer, or name one with --python"
  fi
  command -v "$python" >/dev/null || fail 1 "--python $python: there is no such program"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail 4 "$python is no Python 3.10 or newer, which edgeclin needs: name one with --python"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail 4 "$python cannot make a venv: install python3-venv (apt-get install python3-venv)"
  # The interpreter itself, so that neither another venv nor a moved python3 link can break ours.
  python=$("$python" -c 'import os, sys
print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))')
  case $python in
    /home/* | /root/*)
      [[ -n $root || $dry_run == yes ]] ||
        fail 1 "$python is in a home, which the services cannot see: name a system Python with --python"
      ;;
  esac
}

is_file() {
  [[ $package != *://* && ($package == */* || ${package%%\[*} =~ \.(whl|tar\.gz)$) ]]
}

check_inputs() {
  local name
  for name in edgeclin-run.service edgeclin-sync.service edgeclin-run-coral.conf \
    99-edgeclin-coral.rules device.sample.toml; do
    [[ -r $HERE/$name ]] ||
      fail 1 "$HERE/$name is missing: run install.sh from a complete firmware_scripts folder"
  done
  if is_file; then
    [[ ! -d ${package%%\[*} ]] ||
      fail 1 "--package $package is a folder: build a wheel from it and name that"
    [[ -r ${package%%\[*} ]] ||
      fail 1 "--package ${package%%\[*}: there is no such file; name a wheel that exists"
  fi
  [[ -z $constraints || -r $constraints ]] ||
    fail 1 "--constraints $constraints: there is no such file; name one that exists"
}

# Same content, same extras, same Python: same venv. The place the wheel lies in does not matter.
venv_key() {
  local name=$package
  if is_file; then name=${package##*/}; fi
  {
    printf '%s\n' "$name" "$python"
    "$python" -c 'import sys; print(sys.version_info[:2])'
    if is_file; then sha256sum <"${package%%\[*}"; fi
    if [[ -n $constraints ]]; then sha256sum <"$constraints"; fi
  } | sha256sum | cut -c1-12
}

# -I: not the edgeclin of the folder we stand in. -B: a look writes nothing.
installed_version() {
  "$1/bin/python" -I -B -c 'import edgeclin
from importlib.metadata import version
print(version("edgeclin"))' 2>/dev/null
}

cleanup() {
  [[ -z $building ]] || rm -rf -- "$building"
  [[ $made_opt == no ]] || rmdir -- "$root$OPT" 2>/dev/null || true
}

build_venv() {
  local venv=$1 arguments=()
  [[ -z $constraints ]] || arguments+=(--constraint "$constraints")
  [[ $dry_run == yes ]] || building=$venv
  run rm -rf -- "$venv"
  run "$python" -m venv "$venv" || fail 4 "$python could not make a venv in $venv: mend what it says above"
  run "$venv/bin/python" -m pip install --disable-pip-version-check --no-input "${arguments[@]}" "$package" ||
    fail 1 "pip could not install $package into $venv, which is removed again: mend what pip says above"
  run test -x "$venv/bin/edgeclin" ||
    fail 1 "$package brings no edgeclin command: name the edgeclin package with --package"
  run_quietly "$venv/bin/edgeclin" --help ||
    fail 1 "the edgeclin of $package does not start, and is removed again: mend what it says above"
  [[ -z $root ]] || unroot_venv "$venv"
}

# Scripts in a venv name their Python by its full path, which in the image has no $root before it.
unroot_venv() {
  local from
  from=$(printf '%s' "$root$OPT" | sed 's/[][\\.*^$|]/\\&/g')
  run find "$1/bin" "$1/pyvenv.cfg" -type f -exec sed -i "s|$from|$OPT|g" {} +
}

# A venv cannot be moved, so each is built where it stays, and "venv" is a link that one rename turns.
install_venv() {
  local name link=$root$OPT/venv version
  name=venv-$(venv_key)
  [[ ! -e $link || -L $link ]] ||
    fail 1 "$link is a folder, not the link that install.sh makes: move it away and run install.sh again"
  previous=$(readlink -- "$link" || true)
  if [[ $previous == "$name" ]] && version=$(installed_version "$root$OPT/$name"); then
    step "already there" "$OPT/venv (edgeclin $version)"
    return
  fi
  step "installing" "$package into $OPT/venv"
  if [[ ! -d $root$OPT ]]; then
    [[ $dry_run == yes ]] || made_opt=yes
    run install -d -m 0755 "$root$OPT"
  fi
  build_venv "$root$OPT/$name"
  run sync -f "$root$OPT/$name"
  run ln -sfn "$name" "$link.new"
  run mv -fT -- "$link.new" "$link"
  building=''
  made_opt=no
  remove_old_venvs "$name"
}

# The one before stays: a running service still imports from it, and it is the way back.
remove_old_venvs() {
  local venv
  for venv in "$root$OPT"/venv-*; do
    case ${venv##*/} in
      "$1" | "$previous" | 'venv-*') ;;
      *) run rm -rf -- "$venv" ;;
    esac
  done
}

install_user() {
  [[ -z $root ]] || step "left to image" "user and group edgeclin"
  if [[ -z $root ]] && getent group edgeclin >/dev/null; then
    step "already there" "group edgeclin"
  else
    [[ -n $root ]] || step "making" "group edgeclin"
    run_on_device groupadd --system edgeclin
  fi
  if [[ -z $root ]] && getent passwd edgeclin >/dev/null; then
    step "already there" "user edgeclin"
  else
    [[ -n $root ]] || step "making" "user edgeclin"
    run_on_device useradd --system --gid edgeclin --home-dir "$STATE" --no-create-home \
      --shell /usr/sbin/nologin edgeclin
  fi
}

# install_folder PATH OWNER: mode 0750, group edgeclin.
install_folder() {
  local path=$root$1 facts=%a wanted=750
  [[ ! -e $path || -d $path ]] || fail 1 "$path is not a folder: move it away and run install.sh again"
  if [[ -z $root ]]; then
    facts+=' %U:%G'
    wanted+=" $2:edgeclin"
  fi
  if [[ -d $path && $(stat -c "$facts" -- "$path") == "$wanted" ]]; then
    step "already there" "$1"
  else
    step "making" "$1"
    run install -d -m 0750 -- "$path"
    [[ -n $root ]] || run chown "$2:edgeclin" -- "$path"
  fi
  [[ -z $root ]] || run_on_device chown "$2:edgeclin" "$1"
}

# put_file NAME PATH MODE [OWNER]: by rename, so that nobody ever reads half a file.
put_file() {
  run install -D -m "$3" -- "$HERE/$1" "$root$2.new"
  [[ -z ${4:-} || -n $root ]] || run chown "$4" -- "$root$2.new"
  run mv -f -- "$root$2.new" "$root$2"
}

# install_file NAME PATH: true when it changed something.
install_file() {
  if cmp -s -- "$HERE/$1" "$root$2"; then
    step "already there" "$2"
    return 1
  fi
  if [[ -e $root$2 ]]; then step "replacing" "$2"; else step "writing" "$2"; fi
  put_file "$1" "$2" 0644
}

install_sample() {
  if [[ -e $root$CONFIG/device.toml || -L $root$CONFIG/device.toml ]]; then
    step "already there" "$CONFIG/device.toml"
  else
    step "writing" "$CONFIG/device.toml (a sample: edit it)"
    put_file device.sample.toml "$CONFIG/device.toml" 0640 root:edgeclin
  fi
  [[ -z $root ]] || run_on_device chown root:edgeclin "$CONFIG/device.toml"
}

install_units() {
  local unit
  for unit in edgeclin-run.service edgeclin-sync.service; do
    if install_file "$unit" "$UNITS/$unit"; then units_changed=yes; fi
  done
  [[ $with_coral == yes ]] || return 0
  if install_file edgeclin-run-coral.conf "$UNITS/edgeclin-run.service.d/coral.conf"; then
    units_changed=yes
  fi
  if install_file 99-edgeclin-coral.rules "$RULES/99-edgeclin-coral.rules"; then rules_changed=yes; fi
}

tell_system() {
  if [[ -n $root ]]; then
    step "skipped" "systemctl and udevadm: an image reads its units and rules when it boots"
    return
  fi
  if [[ $units_changed == yes && -d /run/systemd/system ]]; then
    step "reloading" "systemd"
    run systemctl daemon-reload
  fi
  if [[ $rules_changed == yes && -S /run/udev/control ]]; then
    step "reloading" "udev (then unplug the Coral and plug it in again)"
    run udevadm control --reload
  fi
}

say_what_is_next() {
  local command
  if ((${#left[@]})); then
    printf '\nLeft to do in the image, as root:\n'
    for command in "${left[@]}"; do printf '  %s\n' "$command"; done
    printf '  The image needs %s, of the same version and architecture.\n' "$python"
  fi
  printf '\nEdit %s/device.toml, then start edgeclin, now and at every boot:\n' "$CONFIG"
  printf '  systemctl enable --now edgeclin-run.service\n'
  printf '  systemctl enable --now edgeclin-sync.service\n'
  if [[ -n $previous && -z $root && $(readlink -- "$OPT/venv") != "$previous" ]]; then
    printf 'What runs already stays with the version before until it is restarted.\n'
  fi
}

main() {
  parse "$@"
  check_rights
  check_python
  check_inputs
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # The step that can fail comes first: what follows is folders and small files.
  install_venv
  install_user
  install_folder "$CONFIG" root
  install_folder "$CONFIG/keys" root
  install_folder "$STATE" edgeclin
  install_folder "$STATE/inbox" edgeclin
  install_sample
  install_units
  tell_system
  say_what_is_next
}

main "$@"
