package gluster

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// askTime bounds questions that wait for peers and bricks, which may not answer.
const askTime = 20 * time.Second

func (p *pool) peers(ctx context.Context) ([]peerState, error) {
	r, err := p.gluster(ctx, "list peers", p.settings.Peers[0].Address, "pool", "list")
	return r.Peers, err
}

// Health implements providers.Provider. The pool is usable while more than half of its peers are connected:
// with fewer glusterd changes nothing.
func (p *provider) Health(ctx context.Context) (providers.Health, error) {
	const op = "health"
	pool, err := p.ready(op)
	if err != nil {
		return providers.Health{}, err
	}
	peers, err := pool.peers(ctx)
	if err != nil {
		return providers.Health{}, err
	}
	h := providers.Health{Now: p.config.Now(), Free: -1, Total: -1}
	silent, err := pool.silent(ctx)
	if err != nil {
		return providers.Health{}, err
	}
	connected := 0
	for _, peer := range peers {
		hosts := append([]string{peer.Host}, peer.Hosts...)
		switch {
		case peer.Connected != 1:
			h.Problems = append(h.Problems, fmt.Sprintf("peer %s is not connected: start glusterd there, or mend its network", peer.Host))
		case slices.ContainsFunc(hosts, func(host string) bool { return silent[host] }):
			h.Problems = append(h.Problems, fmt.Sprintf("peer %s does not answer over SSH", peer.Host))
		default:
			connected++
		}
	}
	h.Usable = 2*connected > len(peers)
	if !h.Usable {
		h.Problems = append([]string{fmt.Sprintf("no quorum: %d of %d peers are connected", connected, len(peers))}, h.Problems...)
	}
	if h.Fingerprint, err = pool.fingerprint(peers); err != nil {
		return providers.Health{}, err
	}
	problems, err := pool.volumeProblems(ctx)
	if err != nil {
		return providers.Health{}, err
	}
	h.Problems = append(h.Problems, problems...)
	if out, err := pool.anywhere(ctx, "gluster --version | head -n1"); err == nil {
		h.Version = strings.TrimPrefix(firstLines(out.stdout), "glusterfs ")
	}
	h.Free, h.Total = pool.space(ctx)
	return h, nil
}

// silent are the names and addresses of peers that do not answer over SSH. Glusterd takes half a minute to
// notice a peer whose network is gone.
func (p *pool) silent(ctx context.Context) (map[string]bool, error) {
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	lost := make([]bool, len(p.shells))
	group, limited := errgroup.WithContext(limited)
	for i, s := range p.shells {
		group.Go(func() error {
			_, err := p.on(limited, s, "true")
			lost[i] = err != nil
			if fault.Is(err, fault.Denied) {
				return err
			}
			return nil
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return nil, ended(ctx, "health", Name)
	}
	silent := map[string]bool{}
	for i, s := range p.shells {
		if lost[i] {
			silent[s.peer.Name], silent[s.peer.Address] = true, true
		}
	}
	return silent, err
}

// fingerprint is the UUID of the first peer of the settings. A pool has no name of its own, and other peers
// come and go. Whoever answers calls itself localhost.
func (p *pool) fingerprint(peers []peerState) (string, error) {
	first := p.settings.Peers[0]
	local := ""
	for _, peer := range peers {
		hosts := append([]string{peer.Host}, peer.Hosts...)
		if slices.Contains(hosts, first.Name) || slices.Contains(hosts, first.Address) {
			return Name + ":" + peer.UUID, nil
		}
		if peer.Host == "localhost" {
			local = peer.UUID
		}
	}
	if local == "" || !uuid.MatchString(local) {
		return "", fault.Newf("health", fault.Invalid, first.Address, "gluster pool list does not know it: correct its name in peers")
	}
	return Name + ":" + local, nil
}

// volumeProblems are, worst first: split-brain, bricks that are offline, what is to be healed.
func (p *pool) volumeProblems(ctx context.Context) ([]string, error) {
	r, err := p.gluster(ctx, "health", Name, "volume", "info", "all")
	if err != nil {
		return nil, err
	}
	found := make([][3][]string, len(r.Volumes))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(4)
	for i, v := range r.Volumes {
		if !v.started() {
			continue
		}
		group.Go(func() (err error) {
			found[i], err = p.problemsOf(ctx, v)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all []string
	for rank := range 3 {
		for _, of := range found {
			all = append(all, of[rank]...)
		}
	}
	return all, nil
}

func (p *pool) problemsOf(ctx context.Context, v volumeInfo) (found [3][]string, err error) {
	limited, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	r, err := p.gluster(limited, "health", v.Name, "volume", "status", v.Name)
	switch {
	case ctx.Err() != nil:
		return found, ended(ctx, "health", v.Name)
	case fault.Is(err, fault.NotFound) || err != nil && strings.Contains(err.Error(), "not started"):
		return found, nil // deleted or stopped meanwhile
	case err != nil && fault.KindOf(err).Retryable():
		found[1] = append(found[1], fmt.Sprintf("volume %s: the state of its bricks cannot be told, as long as a peer does not answer", v.Name))
		return found, nil
	case err != nil:
		return found, err
	}
	online := map[string]bool{}
	for _, s := range r.Status {
		for _, n := range s.Nodes {
			online[n.Host+":"+n.Path] = n.Online == 1
		}
	}
	for _, b := range v.Bricks {
		if !online[b.Name] {
			found[1] = append(found[1], fmt.Sprintf("volume %s: brick %s is offline", v.Name, b.Name))
		}
	}
	if v.Replica < 2 && v.Disperse == 0 {
		return found, nil
	}
	limited, stop := context.WithTimeout(ctx, askTime)
	defer stop()
	heal, err := p.once(limited, "health", v.Name, "volume", "heal", v.Name, "info", "summary")
	if ctx.Err() != nil {
		return found, ended(ctx, "health", v.Name)
	}
	if err != nil {
		found[2] = append(found[2], fmt.Sprintf("volume %s: what is to be healed cannot be told: gluster volume heal %s info", v.Name, v.Name))
		return found, nil
	}
	pending, split := 0, 0
	for _, b := range heal.Heal {
		pending = max(pending, number(b.Pending)) // each brick tells of its own view
		split = max(split, number(b.SplitBrain))
	}
	if split > 0 {
		found[0] = append(found[0], fmt.Sprintf("volume %s: %d files are in split-brain and cannot be read: gluster volume heal %s info split-brain", v.Name, split, v.Name))
	}
	if pending > 0 {
		found[2] = append(found[2], fmt.Sprintf("volume %s: %d files are to be healed", v.Name, pending))
	}
	return found, nil
}

// number is 0 for what is none: "-" stands for a brick that is not connected.
func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// space is what a volume of the usual layout could hold on the folders for bricks; -1 when it cannot be told.
func (p *pool) space(ctx context.Context) (free, total int64) {
	roots := p.settings.roots()
	if len(roots) == 0 {
		return -1, -1
	}
	layout := usual(p.settings)
	if p.settings.Layout != nil {
		layout = *p.settings.Layout
	}
	for _, root := range roots {
		s, err := p.shell("health", root.peer.Name)
		if err != nil {
			return -1, -1
		}
		out, err := p.on(ctx, s, `df -PB1 -- "$1" | tail -n1`, root.path)
		fields := strings.Fields(string(out.stdout))
		if err != nil || out.status != 0 || len(fields) < 4 {
			return -1, -1
		}
		size, err1 := strconv.ParseInt(fields[1], 10, 64)
		available, err2 := strconv.ParseInt(fields[3], 10, 64)
		if err1 != nil || err2 != nil {
			return -1, -1
		}
		total, free = total+size, free+available
	}
	return int64(float64(free) / layout.copies()), int64(float64(total) / layout.copies())
}
