package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

const (
	// hashTimeout bounds one HashKV, for which a member reads its whole database.
	hashTimeout = 5 * time.Minute
	// hashAttempts bounds how often hashes are asked for again when a compaction came between, or
	// before members are called different.
	hashAttempts = 4
	hashBackoff  = 200 * time.Millisecond
)

// compare asks every member for the hash of the same revision until they agree or are found to
// differ for good. The hash also depends on the revision up to which a member has compacted: only
// hashes with the same compact revision say anything about each other.
func (p *probes) compare(ctx context.Context, state *State) error {
	var err error
	for attempt := range hashAttempts {
		if attempt > 0 {
			if err := pause(ctx, hashBackoff<<attempt); err != nil {
				return err
			}
		}
		var answers []*clientv3.HashKVResponse
		if answers, err = p.hashes(ctx); err != nil && !fault.Is(err, fault.Busy) {
			return err
		}
		if err != nil {
			continue
		}
		if err = p.judge(answers); err == nil {
			first := answers[0]
			state.HashKV, state.CompactRevision, state.HashRevision = first.Hash, first.CompactRevision, p.oldest()
			return nil
		}
	}
	return err
}

// oldest is the revision that every member has reached.
func (p *probes) oldest() int64 {
	return slices.MinFunc(p.members, func(a, b *probe) int { return int(a.Revision - b.Revision) }).Revision
}

// hashes returns one answer a member, in the members' order, all for the same revision. It is Busy
// when a compaction passed that revision meanwhile.
func (p *probes) hashes(ctx context.Context) ([]*clientv3.HashKVResponse, error) {
	if err := p.readAll(ctx); err != nil {
		return nil, err
	}
	revision := p.oldest()
	answers := make([]*clientv3.HashKVResponse, len(p.members))
	group, ctx := errgroup.WithContext(ctx)
	for i, m := range p.members {
		group.Go(func() (err error) {
			answers[i], err = m.hash(ctx, revision)
			return err
		})
	}
	return answers, group.Wait()
}

func (p *probe) hash(ctx context.Context, revision int64) (*clientv3.HashKVResponse, error) {
	call, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	answer, err := p.client.HashKV(call, p.Endpoint, revision)
	if errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) {
		return nil, fault.New(inspecting, fault.Busy, "member "+p.Name, err)
	}
	if err != nil {
		return nil, failure(inspecting, "member "+p.Name, fmt.Errorf("hash its keys at revision %d: %w", revision, err))
	}
	return answer, nil
}

// judge says whether the answers agree: Busy when they can't be compared, Corrupt when they differ.
func (p *probes) judge(answers []*clientv3.HashKVResponse) error {
	for _, answer := range answers {
		if answer.CompactRevision != answers[0].CompactRevision {
			return fault.Newf(inspecting, fault.Busy, "",
				"members are compacting while their hashes are compared: try again when the compaction has ended")
		}
	}
	holders := map[uint32][]string{}
	for i, answer := range answers {
		holders[answer.Hash] = append(holders[answer.Hash], p.members[i].Name)
	}
	if len(holders) == 1 {
		return nil
	}
	return fault.Newf(inspecting, fault.Corrupt, "", "members hold different data at revision %d: %s", p.oldest(), p.verdict(holders))
}

// verdict names those that a majority outvotes; without a majority nobody knows who is right.
func (p *probes) verdict(holders map[uint32][]string) string {
	var parts []string
	advice := "; no hash has a majority: do not back up from any of them before you know which one is right"
	for hash, names := range holders {
		parts = append(parts, fmt.Sprintf("%s hash %08x", strings.Join(names, ", "), hash))
		if 2*len(names) > len(p.members) {
			advice = "; do not back up from " + strings.Join(p.others(names), ", ") + ": remove it, empty its data directory and add it anew"
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ") + advice
}

func (p *probes) others(names []string) []string {
	var out []string
	for _, m := range p.members {
		if !slices.Contains(names, m.Name) {
			out = append(out, m.Name)
		}
	}
	return out
}
