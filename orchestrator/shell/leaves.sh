# Prints the processes of a group that have no other of it below them. BELOW is left out with its children, EXACT alone.
muster_leaves() { # GROUP [BELOW [EXACT]]
	muster_group=$1 muster_below=${2:-} muster_exact=${3:-} muster_members='' muster_parents=' '
	read -r muster_me _ </proc/self/stat
	for muster_stat in /proc/[0-9]*/stat; do
		{ read -r muster_line <"$muster_stat"; } 2>/dev/null || continue
		muster_member=${muster_line%% *}
		set -- ${muster_line##*) } # state, parent, group: the name before may hold anything
		[ "$3" = "$muster_group" ] && [ "$1" != Z ] && [ "$muster_member" != "$muster_me" ] || continue
		muster_parents="$muster_parents$2 "
		[ "$muster_member" != "$muster_exact" ] && [ "$muster_member" != "$muster_below" ] && [ "$2" != "$muster_below" ] || continue
		muster_members="$muster_members $muster_member"
	done
	for muster_member in $muster_members; do
		case $muster_parents in *" $muster_member "*) ;; *) echo "$muster_member" ;; esac
	done
}
