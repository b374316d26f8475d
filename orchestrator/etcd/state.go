package etcd

import (
	"cmp"
	"slices"
)

// State is what Inspect found: a healthy cluster whose members hold the same data.
type State struct {
	ClusterID uint64
	Members   []Member // by name
	// Revision is the newest one that a linearizable read saw: a snapshot that is older misses
	// changes that clients were told are durable.
	Revision int64
	// RaftIndex is the highest seen on any member.
	RaftIndex uint64
	// HashKV is the hash that every member gave for HashRevision; members hash what they hold above
	// CompactRevision.
	HashKV          uint32
	HashRevision    int64
	CompactRevision int64
}

// Member is one etcd process.
type Member struct {
	ID         uint64
	Name       string
	PeerURLs   []string
	ClientURLs []string
	Endpoint   string // where it was reached
	Version    string // of etcd: "3.6.16"
	DBSize     int64  // bytes, free pages included: the size of a snapshot within a few pages
	RaftIndex  uint64
	Leader     bool
	Revision   int64 // of its own linearizable read
}

// Sources lists the members in the order in which a snapshot should be asked for: followers before
// the leader, which has other work, and the smaller database first.
func (s State) Sources() []Member {
	members := slices.Clone(s.Members)
	slices.SortStableFunc(members, func(a, b Member) int {
		if a.Leader != b.Leader {
			if a.Leader {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.DBSize, b.DBSize)
	})
	return members
}
