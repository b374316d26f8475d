//go:build cgo && ceph

package ceph

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/musterdr/muster/providers"
	"github.com/musterdr/muster/providers/fault"
)

// blocking are the health checks with which nothing can be captured and restored. POOL_FULL is about one
// pool, and told as a problem.
var blocking = []string{"OSD_FULL", "PG_AVAILABILITY"}

// Health implements providers.Provider.
func (p *Provider) Health(ctx context.Context) (providers.Health, error) {
	const op = "health"
	if p.here == nil {
		return providers.Health{}, fault.Newf(op, fault.Invalid, name, "the provider was not configured")
	}
	h := providers.Health{Fingerprint: p.here.fsid, Free: -1, Total: -1, Now: p.config.Now()}
	err := bounded(ctx, op, func(context.Context) error {
		return wrap(op, p.here.where(), p.here.note(p.here.health(&h)))
	})
	return h, err
}

func (c *cluster) health(h *providers.Health) error {
	var status struct {
		Health struct {
			Status string `json:"status"`
			Checks map[string]struct {
				Severity string `json:"severity"`
				Summary  struct {
					Message string `json:"message"`
				} `json:"summary"`
			} `json:"checks"`
		} `json:"health"`
	}
	if err := c.ask("status", &status); err != nil {
		return err
	}
	h.Usable = true
	for code, check := range status.Health.Checks {
		h.Problems = append(h.Problems, fmt.Sprintf("%s %s: %s", strings.TrimPrefix(check.Severity, "HEALTH_"), code, check.Summary.Message))
		if slices.Contains(blocking, code) {
			h.Usable = false
		}
	}
	slices.Sort(h.Problems) // ERR before WARN
	var versions struct {
		Overall map[string]int `json:"overall"`
	}
	if err := c.ask("versions", &versions); err == nil {
		for version := range versions.Overall {
			h.Version = max(h.Version, version)
		}
	}
	conn, err := c.connection()
	if err != nil {
		return err
	}
	stat, err := conn.GetClusterStats()
	if err != nil {
		return err
	}
	h.Total, h.Free = int64(stat.Kb)<<10, int64(stat.Kb_avail)<<10
	return nil
}

// ask sends a command to the monitors.
func (c *cluster) ask(command string, into any) error {
	conn, err := c.connection()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(map[string]string{"prefix": command, "format": "json"})
	if err != nil {
		return err
	}
	answer, _, err := conn.MonCommand(raw)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, into)
}
