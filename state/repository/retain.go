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
	decisions := decide(own, retention, r.config.Now())
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

// decide judges points that are given newest first.
func decide(points []Point, retention plans.Retention, now time.Time) []Decision {
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
