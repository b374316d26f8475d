# What every engine's scripts find. The text of secrets, of the parts, of the facts and of the logs follows.
set -eu
umask 077
cd /
for muster_dir in /dev/shm "${TMPDIR:-/tmp}" /tmp; do [ -d "$muster_dir" ] && [ -w "$muster_dir" ] && break; done
muster_end() { # GROUP: asks it to end, and then makes it; what has ended may stay a zombie
	kill -TERM "-$1" 2>/dev/null || return 0
	muster_patience=30
	while [ $muster_patience -gt 0 ] && kill -0 "-$1" 2>/dev/null; do
		muster_patience=$((muster_patience - 1))
		sleep 0.1
	done
	kill -KILL "-$1" 2>/dev/null || :
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
		"$TOKEN "*) muster_end "$muster_pid" ;; # of an earlier try, whose connection broke
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
# a sign of life it ends. The subshell keeps it from being waited for.
muster_watch=$(
	(
		exec </dev/null >/dev/null 2>&1
		trap 'kill "$!"; exit' TERM
		while sleep "$((DEAD_AFTER / 4 + 1))" & wait "$!"; do
			read -r muster_up _ </proc/uptime
			muster_beat=$(cat "$MUSTER_DIR/beat") || exit 0
			[ $((${muster_up%.*} - muster_beat)) -gt "$DEAD_AFTER" ] || continue
			trap '' TERM
			kill -TERM "-$$"
			sleep 5
			kill -KILL "-$$"
		done
	) &
	echo $!
)
trap 'kill "$muster_watch" 2>/dev/null; rm -rf "$MUSTER_DIR"' EXIT
trap 'exit 143' TERM INT HUP
muster_begun $$ >"$MUSTER_DIR/pid.time"
echo $$ >"$MUSTER_DIR/pid.new"
mv "$MUSTER_DIR/pid.new" "$MUSTER_DIR/pid" # it is never seen empty
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
