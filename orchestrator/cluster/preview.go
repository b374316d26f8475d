package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/pmezard/go-difflib/difflib"
)

// Change is what a replay would do to one object.
type Change struct {
	Key    Key    // in the cluster
	Action string // create, keep, skip, update, replace, recreate, prune; lost for what can't be read
	// Diff is a unified diff of YAML: of the living object and what is to stand there; of the captured
	// object and what is to be created when transformations change it; else empty. Of a Secret's values it
	// has digests alone.
	Diff string
}

// Preview tells what a replay would do now, in the order of keys, and does nothing. What is passed over
// and what stands there as it should is not told.
func Preview(ctx context.Context, config ReplayConfig, tell func(Change) error) error {
	r, err := newReplay(config)
	if err != nil {
		return err
	}
	tasks, _, err := r.begin(ctx)
	if err != nil {
		return err
	}
	all := waves()
	r.queue = newQueue(ctx, tasks, len(all), lateWave(all), r.Wait) // knows that nothing has come back yet
	defer r.queue.close()
	for _, t := range tasks {
		if err := r.preview(ctx, t, tell); err != nil {
			return err
		}
	}
	for _, e := range r.extra {
		if err := tell(Change{Key: e.key, Action: "prune"}); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) preview(ctx context.Context, t *task, tell func(Change) error) error {
	key := t.Key()
	captured, err := r.load(ctx, *t.Entry)
	if err != nil && unreadable(err) != "" {
		return tell(Change{Key: key, Action: string(Failed)})
	}
	if err != nil {
		return err
	}
	if r.excused(key, captured) != "" || r.leftTo(key, captured) != "" {
		return nil
	}
	wanted, err := r.prepare(ctx, key, captured)
	if err != nil {
		return tell(Change{Key: key, Action: string(Failed)})
	}
	w := &want{task: t, key: targetKey(key, wanted), object: wanted, policy: r.policyOf(key, captured)}
	there, stands := r.standing[w.key]
	if !stands {
		return tell(Change{Key: w.key, Action: "create", Diff: r.transformed(key, captured, w)})
	}
	if there.digest == r.digest(w.key, w.object) {
		return nil
	}
	living, err := r.get(ctx, w.resource(), w.key)
	if err != nil {
		return err
	}
	living["apiVersion"], living["kind"] = w.object["apiVersion"], w.object["kind"]
	before, after := stable(r.normalise(w.key, released(living))), stable(r.normalise(w.key, w.object))
	return tell(Change{Key: w.key, Action: string(w.onConflict()), Diff: diff("in the cluster", "in the recovery point", before, after)})
}

// transformed shows what the transformations make of an object.
func (r *replay) transformed(key Key, captured Object, w *want) string {
	return diff("captured", "to be created", r.normalise(key, stable(captured)), r.normalise(key, stable(w.object)))
}

// diff is empty for equal objects.
func diff(from, to string, before, after Object) string {
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		FromFile: from, ToFile: to, Context: 3,
		A: difflib.SplitLines(string(appendYAML(nil, veiled(before)))), B: difflib.SplitLines(string(appendYAML(nil, veiled(after)))),
	})
	if err != nil {
		return err.Error() // a writer to memory has none
	}
	return text
}

// veiled is a Secret with digests for values; other objects are as they are.
func veiled(o Object) Object {
	if o.kind() != "Secret" {
		return o
	}
	copied := clone(o).(Object)
	for _, field := range []string{"data", "stringData"} {
		values, _ := copied[field].(map[string]any)
		for name, value := range values {
			text, _ := value.(string)
			sum := sha256.Sum256([]byte(text))
			values[name] = fmt.Sprintf("%d bytes, sha256:%s…", len(text), hex.EncodeToString(sum[:6]))
		}
	}
	remove(copied, "metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration") // holds the values, too
	return copied
}
