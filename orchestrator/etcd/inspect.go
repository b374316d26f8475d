package etcd

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers/fault"
)

const inspecting = "inspect etcd"

// Inspect looks at every member of the cluster and returns its state when it may be backed up: each
// member answers and takes part in a linearizable read, none is a learner or raised an alarm, and
// all of them give the same hash for the same revision. Otherwise the error names the member and
// what to do: Transient (does not answer, no leader), Busy (membership is being changed), Denied
// (certificates), NoSpace, and Corrupt when members hold different data. It changes nothing.
func Inspect(ctx context.Context, access Access) (State, error) {
	if len(access.Endpoints) == 0 {
		return State{}, fault.Newf(inspecting, fault.Invalid, "", "no endpoints are given")
	}
	p, err := probeAll(ctx, access)
	defer p.close()
	if err != nil {
		return State{}, err
	}
	state := State{ClusterID: p.cluster}
	if err := p.alarms(ctx); err != nil {
		return State{}, err
	}
	if err := p.compare(ctx, &state); err != nil {
		return State{}, err
	}
	for _, m := range p.members {
		state.Members = append(state.Members, m.Member)
		state.RaftIndex = max(state.RaftIndex, m.RaftIndex)
		state.Revision = max(state.Revision, m.Revision)
	}
	return state, nil
}

// probe is a member with a connection that reaches it and nobody else.
type probe struct {
	Member
	client *clientv3.Client
	status *clientv3.StatusResponse
}

// probes are all members of a cluster.
type probes struct {
	access  Access
	any     *clientv3.Client // of a member that answered first
	cluster uint64
	members []*probe
	listed  []*etcdserverpb.Member

	mu   sync.Mutex
	open []*clientv3.Client
}

// probeAll finds an endpoint for every member: the given ones first, then those a member advertises.
func probeAll(ctx context.Context, access Access) (*probes, error) {
	p := &probes{access: access}
	found, problems := p.try(ctx, access.Endpoints)
	if err := p.choose(found, problems); err != nil {
		return p, err
	}
	if err := p.list(ctx); err != nil {
		return p, err
	}
	var wanted []string
	for _, m := range p.listed {
		if found[m.ID] == nil {
			wanted = append(wanted, m.ClientURLs...)
		}
	}
	advertised, more := p.try(ctx, wanted)
	maps.Copy(found, advertised)
	return p, p.assign(found, append(problems, more...))
}

// choose takes the first member that answered for questions to the whole cluster, and refuses
// endpoints of different clusters.
func (p *probes) choose(found map[uint64]*probe, problems []error) error {
	if len(found) == 0 {
		return worst([]string{"no endpoint answers"}, problems)
	}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		m := found[id]
		if p.any == nil {
			p.any, p.cluster = m.client, m.status.Header.ClusterId
		}
		if other := m.status.Header.ClusterId; other != p.cluster {
			return fault.Newf(inspecting, fault.Invalid, m.Endpoint,
				"the endpoints belong to clusters %x and %x: list the members of one cluster alone", p.cluster, other)
		}
	}
	return nil
}

func (p *probes) connect(ctx context.Context, endpoint string) (*clientv3.Client, error) {
	client, err := p.access.connect(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, client)
	return client, nil
}

func (p *probes) close() {
	for _, client := range p.open {
		_ = client.Close() // nothing is pending: every request was waited for
	}
}

// list asks for the members, which needs a quorum, and refuses a cluster that is being changed.
func (p *probes) list(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := p.any.MemberList(call)
	if err != nil {
		return failure(inspecting, "", fmt.Errorf("there is no quorum: start the members that are down: %w", err))
	}
	p.listed = list.Members
	var pending []string
	for _, m := range list.Members {
		switch {
		case m.IsLearner:
			pending = append(pending, fmt.Sprintf("%s is a learner: promote it (etcdctl member promote %x) or remove it", nameOf(m), m.ID))
		case m.Name == "":
			pending = append(pending, fmt.Sprintf("%s was added but never started: start it, or remove it (etcdctl member remove %x)", nameOf(m), m.ID))
		}
	}
	if len(pending) > 0 {
		return fault.Newf(inspecting, fault.Busy, "", "membership is being changed: %s", strings.Join(pending, "; "))
	}
	return nil
}

func nameOf(m *etcdserverpb.Member) string {
	if m.Name != "" {
		return "member " + m.Name
	}
	return fmt.Sprintf("member %x", m.ID)
}

// assign gives every listed member its endpoint. What went wrong with others is told only when a
// member is missing.
func (p *probes) assign(found map[uint64]*probe, problems []error) error {
	var missing []string
	for _, m := range p.listed {
		reached := found[m.ID]
		if reached == nil {
			missing = append(missing, nameOf(m)+" does not answer: start it, or correct its endpoint")
			continue
		}
		p.members = append(p.members, reached.describe(m))
	}
	if len(missing) > 0 {
		return worst(missing, problems)
	}
	slices.SortFunc(p.members, func(a, b *probe) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

// worst makes one error of what is wrong; the most telling of the causes gives it its kind.
func worst(what []string, causes []error) error {
	kind := fault.Transient
	for _, cause := range causes {
		if k := fault.KindOf(cause); k == fault.Denied || k == fault.Invalid {
			kind = k
		}
		what = append(what, cause.Error())
	}
	return fault.Newf(inspecting, kind, "", "%s", strings.Join(what, "; "))
}

func (p *probe) describe(m *etcdserverpb.Member) *probe {
	p.ID, p.Name, p.PeerURLs, p.ClientURLs = m.ID, m.Name, m.PeerURLs, m.ClientURLs
	p.Version, p.DBSize, p.RaftIndex = p.status.Version, p.status.DbSize, p.status.RaftIndex
	p.Leader = p.status.Leader == m.ID
	return p
}

// try asks each endpoint who it is. Endpoints that do not answer are no error as long as every
// member is reached by another, so what went wrong is returned beside.
func (p *probes) try(ctx context.Context, endpoints []string) (map[uint64]*probe, []error) {
	var (
		mu       sync.Mutex
		found    = map[uint64]*probe{}
		problems []error
		group    sync.WaitGroup
	)
	for _, endpoint := range endpoints {
		group.Go(func() {
			reached, err := p.ask(ctx, endpoint)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems = append(problems, err)
				return
			}
			found[reached.status.Header.MemberId] = reached
		})
	}
	group.Wait()
	return found, problems
}

func (p *probes) ask(ctx context.Context, endpoint string) (*probe, error) {
	if err := p.access.greet(ctx, endpoint); err != nil {
		return nil, err
	}
	client, err := p.connect(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	status, err := client.Status(call, endpoint)
	if err != nil {
		return nil, failure("ask etcd", endpoint, err)
	}
	return &probe{Member: Member{Endpoint: endpoint}, client: client, status: status}, nil
}

// read makes a linearizable read through the member: it answers when it has applied all that the
// quorum had committed, which is etcdctl's idea of health too. A key that nobody has does.
func (p *probe) read(ctx context.Context) error {
	if p.status.Leader == 0 {
		return fault.Newf(inspecting, fault.Transient, "member "+p.Name, "it has no leader: restore its connection to the other members")
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := p.client.Get(call, "health")
	if err != nil {
		return failure(inspecting, "member "+p.Name, fmt.Errorf("it does not take part in a linearizable read: %w", err))
	}
	p.Revision = response.Header.Revision
	return nil
}

// alarms refuses a cluster in which a member raised one, and says how each is cleared.
func (p *probes) alarms(ctx context.Context) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := p.any.AlarmList(call)
	if err != nil {
		return failure(inspecting, "", fmt.Errorf("list alarms: %w", err))
	}
	names := map[uint64]string{}
	for _, m := range p.members {
		names[m.ID] = m.Name
	}
	kind, texts := fault.Transient, []string(nil)
	for _, alarm := range list.Alarms {
		k, text := explain(alarm.Alarm, cmp.Or(names[alarm.MemberID], fmt.Sprintf("%x", alarm.MemberID)))
		texts = append(texts, text)
		if kind != fault.Corrupt {
			kind = k
		}
	}
	if len(texts) > 0 {
		return fault.Newf(inspecting, kind, "", "%s", strings.Join(texts, "; "))
	}
	return nil
}

func explain(alarm etcdserverpb.AlarmType, member string) (fault.Kind, string) {
	switch alarm {
	case etcdserverpb.AlarmType_NOSPACE:
		return fault.NoSpace, fmt.Sprintf("member %s raised NOSPACE: compact, defragment each member or raise --quota-backend-bytes, then etcdctl alarm disarm", member)
	case etcdserverpb.AlarmType_CORRUPT:
		return fault.Corrupt, fmt.Sprintf("member %s raised CORRUPT: do not back up from it; remove it, empty its data directory, add it anew, then etcdctl alarm disarm", member)
	}
	return fault.Transient, fmt.Sprintf("member %s raised alarm %s: clear its cause, then etcdctl alarm disarm", member, alarm)
}

// readAll lets every member take part in a linearizable read.
func (p *probes) readAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range p.members {
		group.Go(func() error { return m.read(ctx) })
	}
	return group.Wait()
}

// pause waits, or ends early with the context's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fault.New(inspecting, fault.Transient, "", ctx.Err())
	case <-timer.C:
		return nil
	}
}
