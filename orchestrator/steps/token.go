package steps

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"github.com/musterdr/muster/orchestrator"
)

// token names a task to the outside world: the same in every attempt and every process, another one
// for every run, step, item and purpose. Whoever has seen it before has seen this very task.
func token(run *orchestrator.Run, purpose string) string {
	name, _ := json.Marshal([]string{"muster", run.ID, run.Step, run.Item, purpose}) // text always encodes
	sum := sha256.Sum256(name)
	return hex.EncodeToString(sum[:16])
}

// The purposes of tokens.
const (
	forDoing   = "do"
	forUndoing = "undo"
)
