package aws

import (
	"context"
	"time"

	"github.com/musterdr/muster/providers"
)

// wait looks until something is done, and reports how far it is.
func (p *provider) wait(ctx context.Context, op, subject string, look func() (bool, providers.Progress, error)) error {
	timer := time.NewTimer(p.config.Poll)
	defer timer.Stop()
	for {
		done, progress, err := look()
		if err != nil || done {
			return err
		}
		providers.Report(ctx, progress)
		select {
		case <-ctx.Done():
			return p.fail(op, subject, ctx.Err())
		case <-timer.C:
			timer.Reset(p.config.Poll)
		}
	}
}

// maxMisses is how often something that was just made may be missing: EC2's descriptions lag behind what
// it has done.
const maxMisses = 5
