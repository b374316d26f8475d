package plans

import (
	"strings"
	"time"
)

// upgrade turns a frozen plan of format 1 into one that means the same in format 2, where texts of
// `with` hold expressions and not ${item} alone, and where the wait before another attempt has a
// bound.
func upgrade(plan *Plan) {
	for i := range plan.Spec.Steps {
		step := &plan.Spec.Steps[i]
		for key, value := range step.With {
			step.With[key] = upgradeValue(value)
		}
		step.Retry = upgradeRetry(step.Retry)
	}
}

// upgradeRetry keeps waits that only doubled longer than the bound that there is now.
func upgradeRetry(retry Retry) Retry {
	full := retry.WithDefaults()
	longest := time.Duration(full.Backoff) << max(0, full.Attempts-2) // before the last attempt
	if longest > time.Duration(full.MaxBackoff) {
		retry.MaxBackoff = Duration(longest)
	}
	return retry
}

func upgradeValue(value any) any {
	switch v := value.(type) {
	case string:
		return upgradeText(v)
	case []any:
		for i := range v {
			v[i] = upgradeValue(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = upgradeValue(v[key])
		}
	}
	return value
}

// upgradeText makes a template of a text in which ${item} was all that had a meaning.
func upgradeText(text string) string {
	const item = "${item}"
	pieces := strings.Split(text, item)
	for i, piece := range pieces {
		piece = escape(piece)
		plain := strings.TrimRight(piece, "$")
		if dollars := piece[len(plain):]; dollars != "" && i+1 < len(pieces) { // $${item} would be no expression
			piece = plain + "${'" + dollars + "'}"
		}
		pieces[i] = piece
	}
	return strings.Join(pieces, item)
}
