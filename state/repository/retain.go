package repository

import (
	"context"
	"fmt"
	"time"

	"github.com/musterdr/muster/plans"
)

// Decision says what retention does with a point, and why.
type Decision struct {
	Point   Point    `json:"point"`
	Keep    bool     `json:"keep"`
	Reasons []string `json:"reasons,omitempty"`
}

// String is the decision in one line.
func (d Decision) String() string {
	if d.Keep {
		return fmt.Sprintf("keep    %s  %v", d.Point.ID, d.Reasons)
	}
	return fmt.Sprintf("delete  %s", d.Point.ID)
}

// Retain deletes the points of a cluster that the retention does not keep. A dry run only decides.
// The newest point is always kept.
func (r *Repository) Retain(ctx context.Context, cluster string, retention plans.Retention, dryRun bool) ([]Decision, error) {
	points, err := r.Points(ctx)
	if err != nil {
		return nil, err
	}
	var own []Point
	for _, p := range points {
		if p.Cluster == cluster {
			own = append(own, p)
		}
	}
	logs, err := r.logPoints(ctx, own)
	if err != nil {
		return nil, err
	}
	decisions := decide(own, logs, retention, r.config.Now())
	for _, d := range decisions {
		if d.Keep || dryRun {
			continue
		}
		if err := r.Delete(ctx, d.Point); err != nil {
			return decisions, err
		}
	}
	return decisions, nil
}

// logPoints finds the points, given newest first, that hold nothing but logs of databases, by ID. The value is true
// where a newer point holds logs of the same databases: those of the older one are all among them.
func (r *Repository) logPoints(ctx context.Context, points []Point) (map[string]bool, error) {
	found, newer := map[string]bool{}, map[string]bool{}
	for _, p := range points {
		m, err := r.Manifest(ctx, p)
		if err != nil {
			return nil, err
		}
		superseded := true
		for _, layer := range m.DatabaseLogs {
			superseded = superseded && newer[layer.Name]
			newer[layer.Name] = true
		}
		if m.holdsLogsAlone() {
			found[p.ID] = superseded
		}
	}
	return found, nil
}

func (m Manifest) holdsLogsAlone() bool {
	others := len(m.Machines) + len(m.Volumes) + len(m.CloudMachines) + len(m.Databases)
	return len(m.DatabaseLogs) > 0 && others == 0 && m.Etcd == nil && m.Namespaces == nil
}

// decide judges points that are given newest first. Points with logs alone, those in logs, are none that a rule
// counts: the newest of them are kept.
func decide(points []Point, logs map[string]bool, retention plans.Retention, now time.Time) []Decision {
	periods := []struct {
		name   string
		count  int
		period func(time.Time) string
	}{
		{"latest", retention.Latest, func(t time.Time) string { return t.Format(time.RFC3339Nano) }},
		{"hourly", retention.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }},
		{"daily", retention.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{"weekly", retention.Weekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, "-", w) }},
		{"monthly", retention.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
		{"yearly", retention.Yearly, func(t time.Time) string { return t.Format("2006") }},
	}
	decisions := make([]Decision, len(points))
	counted := false
	for i, p := range points {
		decisions[i].Point = p
	}
	for _, rule := range periods {
		counted = counted || rule.count > 0
		seen := map[string]bool{}
		for i, p := range points {
			if _, alone := logs[p.ID]; alone {
				continue
			}
			period := rule.period(p.Instant.UTC())
			if seen[period] || len(seen) >= rule.count {
				continue
			}
			seen[period] = true
			decisions[i].Reasons = append(decisions[i].Reasons, rule.name)
		}
	}
	maxAge := time.Duration(retention.MaxAge)
	for i := range decisions {
		d := &decisions[i]
		if superseded, alone := logs[d.Point.ID]; alone && !superseded {
			d.Reasons = append(d.Reasons, "newest logs")
		}
		d.Keep = len(d.Reasons) > 0 || !counted
		if maxAge > 0 && now.Sub(d.Point.Instant) > maxAge {
			d.Keep, d.Reasons = false, nil
		}
		if i == 0 && !d.Keep {
			d.Keep, d.Reasons = true, []string{"newest"}
		}
	}
	return decisions
}
