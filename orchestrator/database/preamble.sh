# What every engine's scripts find. The text of secrets, of the parts, of the facts and of the logs follows.
set -eu
umask 077
cd /
for muster_dir in /dev/shm "${TMPDIR:-/tmp}" /tmp; do [ -d "$muster_dir" ] && [ -w "$muster_dir" ] && break; done
# Ends processes of a group, those with none below them first: they are waited for by their parents then. What is left
# to a container's first process when it was killed is taken by PostgreSQL, where it is that, for a crash of its own.
muster_end() { # GROUP [BELOW [EXACT]]: as muster_leaves has them
	muster_patience=60
	while [ $muster_patience -gt 0 ]; do
		muster_patience=$((muster_patience - 1))
		muster_leaves=$(muster_leaves "$@")
		[ -n "$muster_leaves" ] || return 0
		if [ $muster_patience -gt 30 ]; then kill -TERM $muster_leaves; else kill -KILL $muster_leaves; fi 2>/dev/null || :
		sleep 0.1
	done
}
# PID: tells it from another that got its number, and from those of a container that shares the folder alone.
muster_begun() { [ ! -e "/proc/$1" ] || echo "$(readlink "/proc/self/ns/pid") $(cut -d ' ' -f 22 "/proc/$1/stat" 2>/dev/null)"; }
for muster_old in "$muster_dir"/muster-db.*/pid; do
	[ -e "$muster_old" ] || continue
	muster_pid=$(cat "$muster_old" 2>/dev/null) || continue
	muster_old=${muster_old%/pid}
	muster_was=$(cat "$muster_old/pid.time" 2>/dev/null) || continue
	[ "${muster_was%% *}" = "$(readlink /proc/self/ns/pid)" ] || continue # of another container
	if [ "$(muster_begun "$muster_pid")" = "$muster_was" ]; then
		case $(cat "$muster_old/task" 2>/dev/null) in
		"$TOKEN $TRY") continue ;;
		"$TOKEN "*) muster_end "$muster_pid" || : ;; # of an earlier try, whose connection broke
		*) continue ;;
		esac
	fi
	rm -rf "$muster_old" # of a script that was killed
done
MUSTER_DIR=$(mktemp -d "$muster_dir/muster-db.XXXXXXXX")
export MUSTER_DIR
read -r muster_up _ </proc/uptime
echo "${muster_up%.*}" >"$MUSTER_DIR/beat"
echo "$TOKEN $TRY" >"$MUSTER_DIR/task"
# A connection that breaks is not always seen here, and a script that waits for it can hold a lock for ever: without
# a sign of life it ends.
(
	exec </dev/null >/dev/null 2>&1
	trap 'kill "$!"; wait; exit 0' TERM
	while sleep "$((DEAD_AFTER / 4 + 1))" & wait "$!"; do
		read -r muster_up _ </proc/uptime
		muster_beat=$(cat "$MUSTER_DIR/beat") || exit 0
		[ $((${muster_up%.*} - muster_beat)) -gt "$DEAD_AFTER" ] || continue
		: >"$MUSTER_DIR/dead"
		read -r muster_self _ </proc/self/stat
		muster_end $$ "$muster_self" || :
	done
) &
muster_watch=$!
trap 'kill "$muster_watch" 2>/dev/null; wait "$muster_watch" 2>/dev/null; rm -rf "$MUSTER_DIR"' EXIT
trap 'exit 143' TERM INT HUP
muster_begun $$ >"$MUSTER_DIR/pid.time"
echo $$ >"$MUSTER_DIR/pid.new"
mv "$MUSTER_DIR/pid.new" "$MUSTER_DIR/pid" # it is never seen empty
# What the script has left running when it ends ends before it.
muster_last() {
	muster_code=$?
	read -r muster_self _ </proc/self/stat
	muster_end $$ "$muster_watch" "$muster_self" || :
	[ ! -e "$MUSTER_DIR/dead" ] || muster_code=143
	exit $muster_code
}
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
