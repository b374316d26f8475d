# What every engine's scripts find. The text of secrets, of the parts and of the facts follows.
set -eu
umask 077
cd /
for muster_dir in /dev/shm "${TMPDIR:-/tmp}" /tmp; do [ -d "$muster_dir" ] && [ -w "$muster_dir" ] && break; done
for muster_old in "$muster_dir"/muster-db.*/pid; do # of scripts that were killed
	[ -e "$muster_old" ] || continue
	kill -0 "$(cat "$muster_old")" 2>/dev/null || rm -rf "${muster_old%/pid}"
done
MUSTER_DIR=$(mktemp -d "$muster_dir/muster-db.XXXXXXXX")
export MUSTER_DIR
trap 'rm -rf "$MUSTER_DIR"' EXIT
trap 'exit 143' TERM INT HUP
echo $$ >"$MUSTER_DIR/pid"
line() {
	muster_line=$1
	shift
	for muster_field; do muster_line="$muster_line	$muster_field"; done
	printf '%s\n' "$muster_line"
}
problem() { line problem "$@"; } # KIND SUBJECT TEXT
part() { line part "$@"; }       # PATH PHASE BYTES ARGUMENT...
scope() { line scope "$@"; }     # NAME
fact() { line fact "$@"; }       # NAME VALUE
digest() { line digest "$@"; }   # NAME COUNT CHECKSUM
fact_of() { while IFS='	' read -r _ muster_name muster_value; do [ "$muster_name" != "$1" ] || printf '%s\n' "$muster_value"; done <"$MUSTER_DIR/facts"; }
