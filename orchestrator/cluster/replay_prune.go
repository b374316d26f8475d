package cluster

import (
	"context"
	"net/http"
)

// prune deletes what stands in the replayed namespaces and is not in the recovery point, where a policy
// says so, as far as it is still the object that the survey met.
func (r *replay) prune(ctx context.Context) error {
	for _, e := range r.extra {
		err := r.delete(ctx, e.resource, e.key, e.uid)
		switch {
		case statusCode(err) == http.StatusNotFound || statusCode(err) == http.StatusConflict:
			continue // it is gone, or another one of its name
		case err != nil && notYet(err):
			return err
		case err != nil:
			r.note(Changed, e.key, "it was not pruned: "+refusal(err))
			continue
		}
		r.pruned = append(r.pruned, outcomeLine(e.key, e.key, Outcome{Result: Pruned}))
	}
	return nil
}
