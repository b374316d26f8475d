package providers

import "context"

// Progress is how far one call has come.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0 when unknown
	Text  string `json:"text,omitempty"`
}

type progressKey struct{}

// WithProgress returns a context whose calls report their progress to sink. The sink must not block; it may
// be called by several goroutines at once.
func WithProgress(ctx context.Context, sink func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, sink)
}

// Report tells whoever called how far a call has come. Long calls (snapshots that must become ready,
// copies, deletions) report at least every few seconds: a caller may take silence for a hang.
func Report(ctx context.Context, p Progress) {
	if sink, ok := ctx.Value(progressKey{}).(func(Progress)); ok {
		sink(p)
	}
}
