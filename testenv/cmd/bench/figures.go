package main

import (
	"context"
	"math"
	"strconv"
	"time"
)

// perSecond is a rate in MB/s.
func perSecond(bytes int64, took time.Duration) float64 { return float64(bytes) / 1e6 / took.Seconds() }

// each is a rate in things per second.
func each(count int, took time.Duration) float64 { return float64(count) / took.Seconds() }

// figure shows a number with three digits that count, or all digits before the point.
func figure(x float64) string {
	return strconv.FormatFloat(rounded(x), 'f', -1, 64)
}

// rounded keeps three digits that count, and all digits before the point.
func rounded(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return x
	}
	scale := math.Pow(10, math.Max(0, 2-math.Floor(math.Log10(math.Abs(x)))))
	return math.Round(x*scale) / scale
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
